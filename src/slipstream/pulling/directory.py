"""Opens what is beneath one directory, and nothing else.

Every component below the directory is opened relative to its parent's descriptor, and never through a symbolic link
(O_NOFOLLOW). So no link leads out, also none that somebody puts there in the meantime. The directory itself may be
reached by any path.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from slipstream.errors import WriteError
from slipstream.pulling.names import OWN_FOLDER

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Directory:
    """A directory that is held open, with a folder of our own in it. A context manager. Safe to use from many threads.

    Paths are relative to it, with `/` between components, and have passed `names.check_paths`. Names are of files in
    the folder of our own.
    """

    def __init__(self, path: str, *, make: bool = False) -> None:
        """
        Args:
            path: of the directory.
            make: whether to make it, and the folder of our own, if need be.

        Raises:
            WriteError: there is none, it is none, or it cannot be made.
        """
        self.path = path
        with _explained(path):
            if make:
                os.makedirs(path, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if make:
                with self._open_folder([OWN_FOLDER], make=True):
                    pass
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Directory {self.path}>"

    def close(self) -> None:
        """Gives the descriptor back."""
        os.close(self._descriptor)

    def see(self, path: str) -> os.stat_result | None:
        """What is at a path; None where there is no regular file, or a link on the way."""
        try:
            with self._open_parent(path) as (parent, name):
                status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except OSError:
            return None
        return status if stat.S_ISREG(status.st_mode) else None

    def check_way(self, path: str) -> None:
        """Raises WriteError where a link or a file is on the way to a path, or a folder at it."""
        full = os.path.join(self.path, path)
        try:
            with self._open_parent(path) as (parent, name), _explained(full):
                status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except WriteError as error:
            if error.errno != errno.ENOENT:
                raise
            return
        if stat.S_ISDIR(status.st_mode):
            raise explain_write(IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)), full)

    def see_own(self, name: str) -> os.stat_result | None:
        """The same for a file of our own."""
        return self.see(f"{OWN_FOLDER}/{name}")

    def free_bytes(self) -> int | None:
        """Bytes that this user may still write; None where the file system does not say."""
        with _explained(self.path):
            status = os.fstatvfs(self._descriptor)
        return status.f_bavail * status.f_frsize if status.f_blocks else None

    def list_own(self) -> list[str]:
        """The names of all files of our own; none where there is no such folder."""
        try:
            with self._open_folder([OWN_FOLDER]) as folder:
                return sorted(os.listdir(folder))
        except OSError:
            return []

    def read_own(self, name: str) -> bytes:
        """A file of our own; nothing where it is not there or cannot be read."""
        try:
            with open(self.open_own(name, os.O_RDONLY), "rb") as file:
                return file.read()
        except OSError:  # WriteError is one
            return b""

    def open_own(self, name: str, flags: int) -> int:
        """Opens a file of our own, which is made where the flags say so.

        Raises:
            WriteError: it cannot be opened, or is no regular file, or a link.
        """
        with self._open_folder([OWN_FOLDER]) as folder, _explained(self._full(name)):
            descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o666, dir_fd=folder)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise FileExistsError(errno.EEXIST, "no regular file")
            return descriptor

    def write_own(self, name: str, offset: int, data: bytes | memoryview) -> None:
        """Writes into a file of our own, which is made if need be.

        Raises:
            WriteError: the disk is full, or failed.
        """
        rest = memoryview(data)
        descriptor = self.open_own(name, os.O_WRONLY | os.O_CREAT)
        with _explained(self._full(name)):
            try:
                while rest:
                    count = os.pwrite(descriptor, rest, offset)
                    rest, offset = rest[count:], offset + count
            finally:
                os.close(descriptor)

    def sync_own(self, name: str) -> os.stat_result:
        """Brings a file of our own to the disk; returns what it is.

        Raises:
            WriteError: the disk failed.
        """
        descriptor = self.open_own(name, os.O_RDONLY)
        with _explained(self._full(name)):
            try:
                os.fsync(descriptor)
                return os.fstat(descriptor)
            finally:
                os.close(descriptor)

    def remove_own(self, name: str) -> None:
        """Removes a file of our own, if it is there."""
        with (
            self._open_folder([OWN_FOLDER]) as folder,
            _explained(self._full(name)),
            contextlib.suppress(FileNotFoundError),
        ):
            os.unlink(name, dir_fd=folder)

    def move_own(self, name: str, path: str) -> None:
        """Gives a file of our own its place, over what is there, and brings that to the disk.

        Folders on the way are made. A link at the path itself is replaced, not followed.

        Raises:
            WriteError: there is a link or a file on the way, or a folder at the path, or the disk failed.
        """
        with (
            self._open_folder([OWN_FOLDER]) as folder,
            self._open_parent(path, make=True) as (parent, last),
            _explained(os.path.join(self.path, path)),
        ):
            os.rename(name, last, src_dir_fd=folder, dst_dir_fd=parent)
            _sync_folder(parent)

    def replace_own(self, name: str, data: bytes) -> None:
        """Writes a whole file of our own, in place of the old one: there is always the one or the other."""
        arriving = f"{name}.new"
        self.remove_own(arriving)
        self.write_own(arriving, 0, data)
        self.sync_own(arriving)
        self.move_own(arriving, f"{OWN_FOLDER}/{name}")

    def _full(self, name: str) -> str:
        return os.path.join(self.path, OWN_FOLDER, name)

    @contextmanager
    def _open_parent(self, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        *folders, name = path.split("/")
        with self._open_folder(folders, make=make) as parent:
            yield parent, name

    @contextmanager
    def _open_folder(self, names: list[str], *, make: bool = False) -> Iterator[int]:
        """A descriptor of a folder below, which is made if need be."""
        descriptor = os.dup(self._descriptor)
        try:
            for depth, name in enumerate(names, 1):
                with _explained(os.path.join(self.path, *names[:depth])):
                    inner = _enter(descriptor, name, make=make)
                os.close(descriptor)
                descriptor = inner
            yield descriptor
        finally:
            os.close(descriptor)


def _enter(folder: int, name: str, *, make: bool) -> int:
    """Opens a folder in a folder."""
    assert name not in ("", ".", ".."), "paths are checked before"
    try:
        return os.open(name, _FOLDER, dir_fd=folder)
    except OSError as error:
        if error.errno != errno.ENOENT:
            if stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                raise OSError(errno.ELOOP, "a symbolic link") from None  # open(2) calls it no directory
            raise
        if not make:
            raise
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, dir_fd=folder)
        _sync_folder(folder)
    return os.open(name, _FOLDER, dir_fd=folder)


def _sync_folder(folder: int) -> None:
    """Brings a folder's names to the disk, where its file system can do that for folders."""
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """Has what the operating system refuses told as a WriteError of that path."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        raise explain_write(error, path) from error


def explain_write(error: OSError, path: str) -> WriteError:
    """The library's error for a write that was refused, with its errno and the next step."""
    code = errno.errorcode.get(error.errno or 0, str(error.errno))
    fault, advice = _FAULTS.get(error.errno or 0, (f"{error.strerror}", "look at the disk and its mount"))
    explained = WriteError(f"{path} could not be written: {fault} ({code}); {advice}", uri=path)
    explained.errno = error.errno
    return explained


_GO_ON = "then pull again: what has come is kept, and it goes on from there"
_FAULTS = {
    errno.ENOSPC: ("its disk is full", f"free some space, {_GO_ON}"),
    errno.EDQUOT: ("this user's quota of the disk is used up", f"free some space, {_GO_ON}"),
    errno.EFBIG: ("it is larger than this process may write", f"raise the limit (ulimit -f), {_GO_ON}"),
    errno.EACCES: ("this user may not", "correct its permissions, or choose another directory"),
    errno.EPERM: ("this user may not", "correct its permissions, or choose another directory"),
    errno.EROFS: ("its file system is mounted read-only", "choose another directory"),
    errno.ELOOP: (
        "it is a symbolic link, which may lead out of the directory",
        "remove it, or choose another directory",
    ),
    errno.ENOTDIR: ("there is a file where a folder is needed", "remove that file, or choose another directory"),
    errno.EISDIR: ("there is a folder of that name", "remove that folder, or choose another directory"),
    errno.ENOTEMPTY: ("there is a folder of that name", "remove that folder, or choose another directory"),
    errno.EEXIST: ("there is something else of that name", "remove it, or choose another directory"),
    errno.ENXIO: ("there is something else of that name", "remove it, or choose another directory"),
    errno.ENOENT: ("it does not exist", "check the path"),
    errno.EXDEV: ("another file system is mounted there", "pull into that one by itself"),
    errno.EIO: ("the disk failed", "look at the kernel log (dmesg)"),
    errno.EMFILE: ("this process has too many files open", "raise the limit (ulimit -n)"),
}
