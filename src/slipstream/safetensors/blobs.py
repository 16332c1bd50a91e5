"""The blobs of a checkpoint, and every way to read of them: mapped, streamed, or only the ranges that are asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import numpy

import slipstream
from slipstream.errors import BlobChangedError, BlobNotFoundError, UsageError
from slipstream.options import Options
from slipstream.safetensors.arrays import Arrays, carrier_dtype, stored_shape
from slipstream.safetensors.errors import as_safetensors_raises
from slipstream.safetensors.mapping import MappedFile
from slipstream.safetensors.slicing import Selection, cut_strips, join_strips
from slipstream.types import Blob, ByteRange, Checkpoint, Strategy, TensorInfo

if TYPE_CHECKING:
    from slipstream.safetensors.arrays import Array, Tensor


class Blobs:
    """Reads tensors of one checkpoint, and guards that it is the one whose headers were read. Threads may share it.

    Attributes:
        checkpoint: what is in it.
        options: how it is read.
    """

    def __init__(
        self, uri: str, arrays: Arrays, options: Options, storage_options: Mapping[str, object] | None = None
    ) -> None:
        """Reads the headers, and maps what is best read so.

        Raises:
            CheckpointError: a header or index is invalid.
            BlobNotFoundError, AccessDeniedError, ReadError, UsageError: see `slipstream.inspect`.
        """
        self.options = options
        self._arrays = arrays
        self._storage_options = storage_options
        with as_safetensors_raises():
            plan = slipstream.plan(uri, options=replace(options, memory_limit=None), storage_options=storage_options)
        self.checkpoint: Checkpoint = plan.checkpoint
        self._addresses = [_find_address(uri, blob) for blob in self.checkpoint.blobs]
        self._files = [
            _map_file(blob) if choice is not None and choice.strategy is Strategy.MAPPED else None
            for blob, choice in zip(self.checkpoint.blobs, plan.choices, strict=True)
        ]

    def is_near(self, tensors: Sequence[TensorInfo]) -> bool:
        """Whether all lie in mapped files that the page cache seems to have."""
        by_blob: dict[int, list[TensorInfo]] = {}
        for info in tensors:
            by_blob.setdefault(info.blob, []).append(info)
        files = [(self._files[blob], group) for blob, group in by_blob.items()]
        return all(file is not None and file.seems_cached(group) for file, group in files)

    def read(self, info: TensorInfo) -> Tensor:
        """One whole tensor, alone."""
        file = self._files[info.blob]
        if file is not None:
            return self._arrays.view(info, file.memory)
        with self.stream([info], self.options) as stream:
            ((_, tensor),) = stream
        return cast("Tensor", tensor)  # of no other framework

    def read_part(self, info: TensorInfo, index: object) -> Tensor:
        """What an index takes of a tensor; of its bytes, only those are read.

        Raises:
            What the framework raises for the index; see Arrays.
        """
        file = self._files[info.blob]
        if file is not None:
            return self._arrays.index(self._arrays.view(info, file.memory), index)
        selection = self._arrays.select(info, index)
        if selection is None or not selection.elements:
            whole = self.read(info) if selection is None or not info.nbytes else self._empty(info)
            return self._arrays.index(whole, index)
        return self._read_selection(info, selection)

    def stream_unless_detached(self, tensors: Sequence[TensorInfo], options: Options) -> slipstream.TensorStream | None:
        """Begins to read; None where others have taken the files' places, and only the mappings still have them."""
        try:
            return self.stream(tensors, options)
        except (BlobChangedError, BlobNotFoundError):
            files = [self._files[blob] for blob in {info.blob for info in tensors}]
            if None not in files and any(file.is_detached() for file in files if file is not None):
                return None
            raise

    def stream(self, tensors: Sequence[TensorInfo], options: Options) -> slipstream.TensorStream:
        """Begins to read some tensors, of the blobs whose headers were read and of no others."""
        blobs = list(dict.fromkeys(info.blob for info in tensors))
        names = frozenset(info.name for info in tensors)
        with as_safetensors_raises():
            stream = slipstream.stream(
                [self._addresses[blob] for blob in blobs],
                framework=self._arrays.framework,
                names=names.__contains__,
                options=options,
                storage_options=self._storage_options,
            )
        try:
            self._check_unchanged(tensors, stream.plan.checkpoint.blobs)
        except BaseException:
            stream.close()
            raise
        return stream

    def _read_selection(self, info: TensorInfo, selection: Selection) -> Tensor:
        dtype = carrier_dtype(info)
        strips = cut_strips(selection, dtype.itemsize)
        address = self._addresses[info.blob]
        ranges = [ByteRange(address, info.start + start, info.start + start + strips.nbytes) for start in strips.starts]
        try:
            stream = slipstream.stream_ranges(
                ranges, framework="numpy", options=self.options, storage_options=self._storage_options
            )
        except UsageError as error:  # the ranges were right when the blob was opened: it has become smaller
            raise _changed(self.checkpoint.blobs[info.blob]) from error
        with stream:
            self._check_unchanged([info], stream.plan.checkpoint.blobs)
            pieces = ((number, cast("Array", data)) for number, data in stream)
            carrier = join_strips(pieces, selection, strips, dtype)
        return self._arrays.finish(info, carrier)

    def _empty(self, info: TensorInfo) -> Tensor:
        """A tensor of that type and shape with nothing in it that was read."""
        return self._arrays.finish(info, numpy.empty(stored_shape(info), carrier_dtype(info)))

    def _check_unchanged(self, tensors: Sequence[TensorInfo], found: Sequence[Blob]) -> None:
        """Raises BlobChangedError where what is being read is not what was opened."""
        opened = [self.checkpoint.blobs[blob] for blob in dict.fromkeys(info.blob for info in tensors)]
        for before, now in zip(opened, found, strict=True):
            if (before.size, before.etag) != (now.size, now.etag):
                raise _changed(before)


def _changed(blob: Blob) -> BlobChangedError:
    return BlobChangedError(
        f"{blob.uri} was changed or replaced since it was opened: open it again once its writer is done", uri=blob.uri
    )


def _map_file(blob: Blob) -> MappedFile | None:
    try:
        return MappedFile(blob)
    except BlobChangedError:
        raise
    except OSError:  # no address space, or a file system without mappings: it is read instead
        return None


def _find_address(uri: str, blob: Blob) -> str:
    """How a blob is asked for alone. What its `uri` leaves out of a URL, a login or a signature, is in the caller's."""
    if not re.match(r"https?://", uri, re.IGNORECASE):
        return blob.uri
    given, shown = urlsplit(uri), urlsplit(blob.uri)
    if given.path == shown.path:
        return uri
    login, at, _ = given.netloc.rpartition("@")
    return shown._replace(netloc=login + at + shown.netloc, query="").geturl()
