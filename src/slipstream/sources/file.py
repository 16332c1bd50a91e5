"""Files, directories and globs on mounted file systems."""

from __future__ import annotations

import errno
import glob
import os
import stat
from collections.abc import Iterator

from slipstream.errors import AccessDeniedError, BlobNotFoundError, ReadError, UsageError
from slipstream.sources.mounts import see_storage
from slipstream.sources.shard_names import SUFFIX, choose_index, is_index
from slipstream.types import Blob, ListedFile, Listing, StorageFacts


class FileSource:
    """Reads checkpoints from the local file system tree, whatever is mounted there."""

    def list_blobs(self, uri: str) -> Listing:
        """See Source. A path that exists is taken literally, also where it holds glob characters."""
        path = _local_path(uri)
        if os.path.isdir(path):
            return _list_directory(uri, path)
        if not os.path.lexists(path) and glob.has_magic(path):
            return _list_glob(uri, path)
        if is_index(path):
            return Listing(uri, (), stat_blob(path))
        return Listing(uri, (stat_blob(path),))

    def find_blob(self, listing: Listing, name: str) -> Blob:
        """See Source."""
        assert listing.index is not None, "only a shard index names other blobs"
        return stat_blob(os.path.join(os.path.dirname(listing.index.uri), name))

    def find_file(self, uri: str) -> Blob:
        """See Source."""
        return stat_blob(_local_path(uri))

    def list_tree(self, uri: str, *, recursive: bool = True) -> tuple[ListedFile, ...]:
        """See TreeSource. Links are followed, but never round in circles."""
        path = _local_path(uri)
        if not os.path.isdir(path):
            return (ListedFile(os.path.basename(path), stat_blob(path)),)
        return tuple(sorted(_walk(_hub_snapshot(path), recursive=recursive)))

    def read_range(self, blob: Blob, start: int, end: int) -> bytes:
        """See Source."""
        try:
            with open(blob.uri, "rb", buffering=0) as file:
                pieces: list[bytes] = []
                while start < end and (piece := os.pread(file.fileno(), end - start, start)):
                    pieces.append(piece)
                    start += len(piece)
                return b"".join(pieces)
        except OSError as error:
            raise explain_os_error(error, blob.uri, start, end - start) from error

    def see_facts(self, blob: Blob) -> StorageFacts:
        """See Source."""
        try:
            return see_storage(blob.uri)
        except OSError as error:
            raise explain_os_error(error, blob.uri) from error


def stat_blob(path: str) -> Blob:
    """Describes one regular file, through symbolic links; the etag is its identity, size and time.

    Raises:
        BlobNotFoundError: it is missing, or a link to nowhere, or not a file.
        AccessDeniedError: it may not be looked at.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise explain_os_error(error, path) from error
    if not stat.S_ISREG(status.st_mode):
        raise BlobNotFoundError(f"{path} is not a regular file: give a file, a directory or a glob", uri=path)
    return Blob(path, status.st_size, file_etag(status))


def file_etag(status: os.stat_result) -> str:
    """What changes whenever a file's content is changed or replaced."""
    return f"{status.st_dev:x}-{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"


def explain_os_error(
    error: OSError, path: str, offset: int | None = None, length: int | None = None
) -> BlobNotFoundError | AccessDeniedError | ReadError:
    """The library's error for what the operating system answered, with its errno and the next step."""
    explained = _explain(error, path, offset, length)
    explained.errno = error.errno
    return explained


def _explain(
    error: OSError, path: str, offset: int | None, length: int | None
) -> BlobNotFoundError | AccessDeniedError | ReadError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        if os.path.islink(path):
            target = os.readlink(path)
            return BlobNotFoundError(
                f"{path} is a link to {target}, which does not exist: the download was interrupted or its cache pruned",
                uri=path,
            )
        return BlobNotFoundError(f"{path} does not exist: check the path{_nearest(path)}", uri=path)
    if error.errno in (errno.EACCES, errno.EPERM):
        return AccessDeniedError(f"{path} may not be read by this user: check its permissions", uri=path)
    where = "" if offset is None else f" at offset {offset}, length {length}"
    text = f"{path} could not be read{where}: {error.strerror} ({errno.errorcode.get(error.errno or 0, error.errno)})"
    advice = "; the storage failed, look at the kernel log (dmesg) and the mount" if error.errno == errno.EIO else ""
    return ReadError(text + advice, uri=path, offset=offset, length=length)


def _local_path(uri: str) -> str:
    if uri[:7].lower() == "file://":
        from urllib.parse import unquote  # here, because it costs an eighth of `import slipstream`

        host, slash, path = uri[7:].partition("/")
        if host not in ("", "localhost"):
            raise UsageError(f"{uri} names the host {host}: a file URI has three slashes, file:///path", uri=uri)
        return os.path.abspath(unquote(slash + path))
    return os.path.abspath(os.path.expanduser(uri))


def _list_directory(uri: str, path: str) -> Listing:
    """A directory: its shard index where it has one, else all its safetensors files."""
    path = _hub_snapshot(path)
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        raise explain_os_error(error, path) from error
    index = choose_index(names, uri)
    if index is not None:
        return Listing(uri, (), stat_blob(os.path.join(path, index)))
    shards = [name for name in names if name.endswith(SUFFIX)]
    if not shards:
        found = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        raise BlobNotFoundError(f"{path} has no *{SUFFIX} file; it holds {found or 'nothing'}", uri=uri)
    return Listing(uri, tuple(stat_blob(os.path.join(path, name)) for name in shards))


def _walk(root: str, *, recursive: bool) -> Iterator[ListedFile]:
    """The regular files of a directory tree. A folder that a link puts inside itself is not entered again."""
    unseen: list[tuple[str, str, frozenset[tuple[int, int]]]] = [(root, "", frozenset())]
    while unseen:
        folder, inside, above = unseen.pop()
        for name, status in _look_into(folder):
            identity = (status.st_dev, status.st_ino)
            if stat.S_ISREG(status.st_mode):
                blob = Blob(os.path.join(folder, name), status.st_size, file_etag(status))
                yield ListedFile(inside + name, blob)
            elif stat.S_ISDIR(status.st_mode) and recursive and identity not in above:
                unseen.append((os.path.join(folder, name), f"{inside}{name}/", above | {identity}))


def _look_into(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """What lies directly in a folder, through links."""
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise explain_os_error(error, folder) from error
    for name in names:
        path = os.path.join(folder, name)
        try:
            status = os.stat(path)
        except OSError as error:
            if not os.path.lexists(path):
                continue  # it has gone since
            raise explain_os_error(error, path) from error
        yield name, status


def _hub_snapshot(path: str) -> str:
    """The snapshot that `main` points to, where the directory is a repository of the Hugging Face cache.

    Source: huggingface_hub, "Understand caching": `models--ORG--NAME/{blobs,refs,snapshots}`.
    """
    reference = os.path.join(path, "refs", "main")
    if not os.path.isfile(reference) or not os.path.isdir(os.path.join(path, "snapshots")):
        return path
    try:
        with open(reference, encoding="utf-8", errors="replace") as file:
            revision = file.read(256).strip()
    except OSError as error:
        raise explain_os_error(error, reference) from error
    snapshot = os.path.join(path, "snapshots", os.path.basename(revision))
    return snapshot if os.path.isdir(snapshot) else path


def _list_glob(uri: str, pattern: str) -> Listing:
    """Of the files that match, those with the usual suffix; where none has it, all."""
    paths = sorted(path for path in glob.glob(pattern, recursive=True) if not os.path.isdir(path))
    paths = [path for path in paths if path.endswith(SUFFIX)] or paths
    if not paths:
        raise BlobNotFoundError(f"nothing matches {pattern}: check the pattern", uri=uri)
    return Listing(uri, tuple(stat_blob(path) for path in paths))


def _nearest(path: str) -> str:
    """Names the part of the path that does exist, for the message."""
    parent = os.path.dirname(path)
    while parent != os.path.dirname(parent) and not os.path.isdir(parent):
        parent = os.path.dirname(parent)
    return f" ({parent} exists)"
