"""A local file as one private mapping: the cheapest way to single tensors, and free where the page cache has them."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence

import slipstream
from slipstream.errors import BlobChangedError
from slipstream.types import Blob, TensorInfo

_PROBES = 16


class MappedFile:
    """A file of a checkpoint, mapped for as long as this or a tensor in it lives.

    The mapping is private and writable: what is written to a tensor stays in this process. Nothing is read before
    it is touched.

    Attributes:
        memory: the mapping, from the file's first byte on.
    """

    def __init__(self, blob: Blob) -> None:
        """
        Args:
            blob: a local file, as its header was read from.

        Raises:
            BlobChangedError: it is no longer the file whose header was read.
            OSError: it cannot be mapped.
        """
        self._path = blob.uri
        descriptor = os.open(blob.uri, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._identity = _identify(os.fstat(descriptor))
            self.memory = mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)
        except ValueError as error:  # it has become empty
            raise _changed(blob) from error
        finally:
            os.close(descriptor)
        # Both before and after it was mapped, the path has led to the same content: so that is what is mapped.
        if [found.etag for found in slipstream.list_files(blob.uri)] != [blob.etag] or len(self.memory) != blob.size:
            raise _changed(blob)

    def is_detached(self) -> bool:
        """Whether another file has taken its place, or none: then nobody changes what is mapped any more."""
        try:
            return _identify(os.stat(self._path)) != self._identity
        except OSError:
            return True

    def seems_cached(self, tensors: Sequence[TensorInfo]) -> bool:
        """Whether the page cache seems to have them: a few bytes of them are asked for that must not be waited for.

        A hint, since pages come and go. It costs about 20 microseconds.
        """
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return all(_is_cached(descriptor, offset) for offset in _spread(tensors))
        finally:
            os.close(descriptor)


def _identify(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _is_cached(descriptor: int, offset: int) -> bool:
    try:
        return os.preadv(descriptor, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except OSError:  # not there, or a file system that cannot tell
        return False


def _spread(tensors: Sequence[TensorInfo]) -> list[int]:
    """Offsets spread evenly over the bytes of some tensors."""
    nbytes = sum(info.nbytes for info in tensors)
    wanted = sorted({nbytes * number // _PROBES for number in range(_PROBES)} | {max(nbytes - 1, 0)})
    offsets: list[int] = []
    passed = 0
    for info in tensors:
        while wanted and passed <= wanted[0] < passed + info.nbytes:
            offsets.append(info.start + wanted.pop(0) - passed)
        passed += info.nbytes
    return offsets


def _changed(blob: Blob) -> BlobChangedError:
    return BlobChangedError(
        f"{blob.uri} was changed or replaced while it was being opened: open it again once its writer is done",
        uri=blob.uri,
    )
