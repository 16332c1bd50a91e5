"""A directory mounted a second time through FUSE, whose reads fail, wait or lie on command. Real mounts, real refusals.

    test  ->  FaultyFs  --commands, as JSON lines on a pipe-->  Passthrough  ->  the directory
      \\-- open, read, mmap -->  kernel  --/dev/fuse----------------^

The file system runs in a process of its own (`python -m slipstream.testing.faulty_fs`), since a process that
serves its own page faults would wait for itself. It unmounts itself when the pipe closes, so also when the test dies.

Needs the package mfusepy, libfuse 2 or 3, and the right to mount (root, or fusermount).
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

# A test that waits in the kernel for a gate that it alone would open can be ended by nobody.
_LONGEST_HOLD_S = 60.0
_GRACE_S = 2.0
# More than any test holds: a held read occupies a thread of libfuse, and the kernel's quota of reads ahead.
_MOST_HELD = 256
_STAT_FIELDS = "st_mode st_nlink st_uid st_gid st_size st_atime_ns st_mtime_ns st_ctime_ns".split()


class HeldRead(NamedTuple):
    """A read request of the kernel that waits at the gate."""

    path: str
    offset: int
    length: int


class FaultyFs:
    """Mounts `source`, read-only, on `mount_point`. One thread talks to it at a time.

    Attributes:
        mount_point: where the directory can be seen, with its faults.
    """

    def __init__(self, source: Path, mount_point: Path) -> None:
        self.mount_point = mount_point
        self._server = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, str(source), str(mount_point)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C in the terminal is for the test
        )
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets every held read go, unmounts, and ends the process."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        try:
            self._server.wait(10)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
            _unmount(self.mount_point)
        self._server.stdout.close()

    def reset(self) -> None:
        """Ends every fault, and lets every held read go."""
        self._ask("reset")

    def fail_from(self, offset: int, number: int = errno.EIO, *, direct_only: bool = False) -> None:
        """Reads that touch bytes from `offset` on fail with this errno; `direct_only`, those with O_DIRECT alone."""
        self._ask("fail_from", offset=offset, number=number, direct_only=direct_only)

    def hold_from(self, offset: int) -> None:
        """Reads that touch bytes from `offset` on wait at a gate, until `release`, or for a minute.

        The kernel reads ahead, so leave 256 KiB between `offset` and what must not wait.
        """
        self._ask("hold_from", offset=offset)

    def wait_held(self, count: int, timeout_s: float = 20.0) -> list[HeldRead]:
        """Waits until at least `count` reads are at the gate; returns all that are.

        Raises:
            TimeoutError: so many did not come.
        """
        held = [HeldRead(*read) for read in self._ask("wait_held", count=count, timeout_s=timeout_s)]
        if len(held) < count:
            raise TimeoutError(f"{len(held)} reads came to the gate in {timeout_s} s, not {count}: {held}")
        return held

    def release(self) -> None:
        """Opens the gate."""
        self._ask("release")

    def delay(self, seconds: float) -> None:
        """Every read takes this long."""
        self._ask("delay", seconds=seconds)

    def promise(self, extra_bytes: int) -> None:
        """Files claim to be this much longer than they are: reads at their end are short."""
        self._ask("promise", extra_bytes=extra_bytes)

    def _ask(self, command: str, **arguments: object) -> Any:
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps([command, arguments]) + "\n")
        self._server.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        if not line:
            raise OSError(f"the FUSE file system at {self.mount_point} ended with exit code {self._server.wait(10)}")
        return json.loads(line)


def why_unavailable() -> str | None:
    """Why no FUSE file system can be mounted here, in words; None where it can."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        return f"/dev/fuse cannot be opened: {error.strerror}"
    if os.geteuid() != 0 and not shutil.which("fusermount3") and not shutil.which("fusermount"):
        return "mounting takes root or fusermount"
    try:
        importlib.import_module("mfusepy")
    except (ImportError, OSError) as error:  # OSError: there is no libfuse
        return str(error)
    return None


class Passthrough:
    """The operations that libfuse calls, in many threads at once, and the faults they are subject to."""

    use_ns = True  # for mfusepy: times are whole nanoseconds

    def __init__(self, source: str) -> None:
        self._source = source
        self._changed = threading.Condition()  # guards all below
        self._direct_handles: set[int] = set()
        self._held: list[HeldRead] = []
        self.reset()

    # What libfuse calls. An OSError is its answer to the kernel.

    def init_with_config(self, connection: Any, config: object) -> None:
        connection.max_background = _MOST_HELD
        _say(None)

    def getattr(self, path: str, handle: int | None = None) -> dict[str, int]:
        status = os.lstat(self._source + path)
        answer: dict[str, int] = {name.removesuffix("_ns"): getattr(status, name) for name in _STAT_FIELDS}
        if stat.S_ISREG(status.st_mode):
            answer["st_size"] += self._extra_bytes
        return answer

    def readdir(self, path: str, handle: int) -> list[str]:
        return [".", "..", *os.listdir(self._source + path)]

    def readlink(self, path: str) -> str:
        return os.readlink(self._source + path)

    def open(self, path: str, flags: int) -> int:
        handle = os.open(self._source + path, os.O_RDONLY | os.O_CLOEXEC)
        if flags & os.O_DIRECT:
            with self._changed:
                self._direct_handles.add(handle)
        return handle

    def release(self, path: str, handle: int) -> int:
        with self._changed:
            self._direct_handles.discard(handle)
        os.close(handle)
        return 0

    def read(self, path: str, length: int, offset: int, handle: int) -> bytes:
        self._wait_released(HeldRead(path, offset, length))
        time.sleep(self._delay_s)
        with self._changed:
            fails = offset + length > self._fail_from and (handle in self._direct_handles or not self._direct_only)
            if fails:
                raise OSError(self._fail_number, os.strerror(self._fail_number))
        return os.pread(handle, length, offset)

    def _wait_released(self, read: HeldRead) -> None:
        with self._changed:
            if read.offset + read.length <= self._hold_from:
                return
            self._held.append(read)
            self._changed.notify_all()
            self._changed.wait_for(lambda: read.offset + read.length <= self._hold_from, _LONGEST_HOLD_S)
            self._held.remove(read)

    # What FaultyFs asks for.

    def reset(self) -> None:
        with self._changed:
            self._hold_from = self._fail_from = sys.maxsize
            self._fail_number = errno.EIO
            self._direct_only = False
            self._delay_s = 0.0
            self._extra_bytes = 0
            self._changed.notify_all()

    def fail_from(self, offset: int, number: int, direct_only: bool) -> None:
        with self._changed:
            self._fail_from, self._fail_number, self._direct_only = offset, number, direct_only

    def hold_from(self, offset: int) -> None:
        with self._changed:
            self._hold_from = offset

    def wait_held(self, count: int, timeout_s: float) -> list[HeldRead]:
        with self._changed:
            self._changed.wait_for(lambda: len(self._held) >= count, timeout_s)
            return list(self._held)

    def release_held(self) -> None:
        self.hold_from(sys.maxsize)
        with self._changed:
            self._changed.notify_all()

    def delay(self, seconds: float) -> None:
        self._delay_s = seconds

    def promise(self, extra_bytes: int) -> None:
        self._extra_bytes = extra_bytes


def _say(answer: object) -> None:
    print(json.dumps(answer), flush=True)


def _obey(files: Passthrough, mount_point: str) -> None:
    """Carries out commands until the pipe closes; then unmounts and ends the process."""
    commands: dict[str, Callable[..., object]] = {
        "reset": files.reset,
        "fail_from": files.fail_from,
        "hold_from": files.hold_from,
        "wait_held": files.wait_held,
        "release": files.release_held,
        "delay": files.delay,
        "promise": files.promise,
    }
    for line in sys.stdin:
        name, arguments = json.loads(line)
        _say(commands[name](**arguments))
    files.reset()
    _unmount(mount_point)
    time.sleep(_GRACE_S)  # libfuse answers what it was asked, and ends the process when the last file is closed
    os._exit(0)


def _unmount(mount_point: str | Path) -> None:
    """Takes the mount away at once, also while files on it are open."""
    for command in (["umount", "-l"], ["fusermount3", "-uz"], ["fusermount", "-uz"]):
        if shutil.which(command[0]):
            done = subprocess.run([*command, str(mount_point)], stderr=subprocess.DEVNULL, check=False)
            if done.returncode == 0:
                break


def main() -> None:
    """Mounts and serves until the standard input ends."""
    source, mount_point = sys.argv[1:]
    files = Passthrough(source)
    threading.Thread(target=_obey, args=(files, mount_point), daemon=True).start()
    fuse = importlib.import_module("mfusepy")
    has_limit = (fuse.fuse_version_major, fuse.fuse_version_minor) >= (3, 12)
    limit = {"max_threads": _MOST_HELD} if has_limit else {}
    fuse.FUSE(files, mount_point, foreground=True, ro=True, fsname="faulty", subtype="faulty", **limit)


if __name__ == "__main__":
    main()
