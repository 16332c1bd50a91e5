"""One process at a time pulls into a directory.

The lock is flock(2) on `DIRECTORY/.slipstream/lock`. The kernel takes it back whenever its holder ends, however that
is, so a holder that is killed blocks nobody. It also keeps threads of one process apart. A forked child would hold on
to it after its parent, so it lets go at once.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from slipstream.errors import WriteError
from slipstream.pulling.directory import Directory, explain_write
from slipstream.pulling.names import OWN_FOLDER

_NAME = "lock"
_held: set[int] = set()  # descriptors


def _let_go_after_fork() -> None:
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go_after_fork)


@contextmanager
def hold_lock(directory: Directory) -> Iterator[bool]:
    """Waits until nobody else pulls into a directory, and keeps it so for the length of the block.

    Gives whether it had to wait: much may have happened by then.

    Raises:
        WriteError: the file system knows no locks, or the directory cannot be written.
    """
    descriptor, waited = _take(directory)
    process = os.getpid()
    try:
        yield waited
    finally:
        if os.getpid() == process:
            _release(descriptor)


def _take(directory: Directory) -> tuple[int, bool]:
    waited = False
    while True:
        descriptor = directory.open_own(_NAME, os.O_RDWR | os.O_CREAT)
        _held.add(descriptor)
        try:
            waited = _wait(descriptor, directory) or waited
            status = directory.see_own(_NAME)
            if status is not None and os.path.samestat(status, os.fstat(descriptor)):
                return descriptor, waited
        except BaseException:
            _release(descriptor)
            raise
        _release(descriptor)  # somebody has removed the file meanwhile: others lock another one


def _wait(descriptor: int, directory: Directory) -> bool:
    """Takes the lock; whether it had to wait for it."""
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
        except BlockingIOError:
            logging.getLogger("slipstream").info("waiting for another process that pulls into %s", directory.path)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            return True
    except OSError as error:
        path = os.path.join(directory.path, OWN_FOLDER, _NAME)
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL):
            text = f"{path} cannot be locked: its file system has no locks; mount it with them, or pull to another one"
            raise WriteError(text, uri=path) from error
        raise explain_write(error, path) from error


def _release(descriptor: int) -> None:
    """Unlocks first: a child that was forked just now may hold a copy of the descriptor for a moment."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    _held.discard(descriptor)
    os.close(descriptor)
