"""A checkpoint that is open: knows its tensors, and reads those that are asked for, in the way that suits its storage.

    whole tensor   a view of the mapped file, or what was read ahead, or a stream of its own
    part of one    a view of the mapped file, or only the byte ranges that hold it
    all            views of the mapped files where the page cache has them, else one stream
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import numpy

import slipstream
from slipstream.errors import BlobChangedError, BlobNotFoundError, UsageError
from slipstream.options import Options
from slipstream.safetensors.arrays import Arrays, carrier_dtype, is_whole, stored_shape
from slipstream.safetensors.errors import NoSuchTensorError, as_safetensors_raises
from slipstream.safetensors.mapping import MappedFile
from slipstream.safetensors.orders import likely_orders
from slipstream.safetensors.read_ahead import MOST_AHEAD_BYTES, ReadAhead
from slipstream.safetensors.slicing import Selection, cut_strips, join_strips
from slipstream.types import Blob, ByteRange, Checkpoint, Strategy, TensorInfo

if TYPE_CHECKING:
    from slipstream.safetensors.arrays import Array, Tensor


class Archive:
    """Reads the tensors of one checkpoint. Safe to use from many threads, and after a fork.

    It is not closed: what it maps goes with the last tensor. `stop_reading_ahead` ends what happens in the background.

    Attributes:
        checkpoint: what is in it.
        keys: the names of its tensors, as `safe_open.keys` gives them.
    """

    def __init__(
        self, uri: str, arrays: Arrays, options: Options, storage_options: Mapping[str, object] | None = None
    ) -> None:
        """Reads the headers, and maps what is best read so.

        Raises:
            CheckpointError: a header or index is invalid.
            BlobNotFoundError, AccessDeniedError, ReadError, UsageError: see `slipstream.inspect`.
        """
        self._arrays = arrays
        self._options = options
        self._storage_options = storage_options
        with as_safetensors_raises():
            plan = slipstream.plan(uri, options=replace(options, memory_limit=None), storage_options=storage_options)
        self.checkpoint: Checkpoint = plan.checkpoint
        self.keys = tuple(sorted(info.name for info in self.checkpoint.tensors))
        self._addresses = [_find_address(uri, blob) for blob in self.checkpoint.blobs]
        self._files = [
            _map_file(blob) if choice is not None and choice.strategy is Strategy.MAPPED else None
            for blob, choice in zip(self.checkpoint.blobs, plan.choices, strict=True)
        ]
        self._is_stopped = False
        self._ahead: dict[int, ReadAhead] = {}  # by process: a forked child has none of the threads of its parent

    def __repr__(self) -> str:
        blobs = self.checkpoint.blobs
        more = f" and {len(blobs) - 1} more" if len(blobs) > 1 else ""
        return f"<Archive {blobs[0].uri if blobs else ''}{more}: {len(self.keys)} tensors>"

    def find(self, name: str) -> TensorInfo:
        """The tensor of that name.

        Raises:
            NoSuchTensorError: there is none.
        """
        if not isinstance(name, str):
            raise TypeError(f"a tensor's name is text, not {name!r}")
        info = self.checkpoint.by_name.get(name)
        if info is None:
            raise NoSuchTensorError(f"File does not contain tensor {name}: its names are those of keys()")
        return info

    def read(self, info: TensorInfo) -> Tensor:
        """One whole tensor."""
        ahead = None if self._is_stopped else self._read_ahead().take(info)
        return self._read_alone(info) if ahead is None else ahead

    def read_part(self, info: TensorInfo, index: object) -> Tensor:
        """What an index takes of a tensor; of its bytes, only those are read.

        Raises:
            What the framework raises for the index; see Arrays.
        """
        if is_whole(index):
            return self._arrays.index(self.read(info), index)
        if not self._is_stopped:
            self._read_ahead().break_off()
        file = self._files[info.blob]
        if file is not None:
            return self._arrays.index(self._arrays.view(info, file.memory), index)
        selection = self._arrays.select(info, index)
        if selection is None or not selection.elements:
            whole = self._read_alone(info) if selection is None or not info.nbytes else self._empty(info)
            return self._arrays.index(whole, index)
        return self._read_selection(info, selection)

    def read_all(self) -> dict[str, Tensor]:
        """All tensors by name, in the order of the file."""
        tensors = self.checkpoint.tensors
        populate = True if self._options.populate == "auto" else self._options.populate
        options = replace(self._options, populate=populate)
        stream = None if self._is_near(tensors) else self._stream_unless_detached(tensors, options)
        if stream is None:
            return {info.name: self._read_alone(info) for info in tensors}
        with stream:
            found = dict(stream)
        return {info.name: found[info.name] for info in tensors}

    def stop_reading_ahead(self) -> None:
        """Ends the reads that are under way for tensors nobody has asked for."""
        self._is_stopped = True
        ahead = self._ahead.get(os.getpid())
        if ahead is not None:
            ahead.close()

    def _read_ahead(self) -> ReadAhead:
        process = os.getpid()
        return self._ahead.get(process) or self._ahead.setdefault(process, self._open_read_ahead())

    def _open_read_ahead(self) -> ReadAhead:
        limit = self._options.memory_limit
        options = replace(self._options, memory_limit=None)  # of which the tensors that the caller holds would count
        return ReadAhead(
            likely_orders(self.checkpoint.tensors, self.keys),
            lambda tensors: self._stream_unless_detached(tensors, options),
            self._is_near,
            MOST_AHEAD_BYTES if limit is None else min(limit, MOST_AHEAD_BYTES),
        )

    def _is_near(self, tensors: Sequence[TensorInfo]) -> bool:
        """Whether all lie in mapped files that the page cache seems to have."""
        by_blob: dict[int, list[TensorInfo]] = {}
        for info in tensors:
            by_blob.setdefault(info.blob, []).append(info)
        files = [(self._files[blob], group) for blob, group in by_blob.items()]
        return all(file is not None and file.seems_cached(group) for file, group in files)

    def _read_alone(self, info: TensorInfo) -> Tensor:
        file = self._files[info.blob]
        if file is not None:
            return self._arrays.view(info, file.memory)
        with self._stream([info], self._options) as stream:
            ((_, tensor),) = stream
        return tensor

    def _read_selection(self, info: TensorInfo, selection: Selection) -> Tensor:
        dtype = carrier_dtype(info)
        strips = cut_strips(selection, dtype.itemsize)
        address = self._addresses[info.blob]
        ranges = [
            ByteRange(address, info.start + start, info.start + start + strips.nbytes) for start in strips.starts
        ]
        try:
            stream = slipstream.stream_ranges(
                ranges, framework="numpy", options=self._options, storage_options=self._storage_options
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

    def _stream_unless_detached(self, tensors: Sequence[TensorInfo], options: Options) -> slipstream.TensorStream | None:
        """Begins to read; None where others have taken the files' places, and only the mappings still have them."""
        try:
            return self._stream(tensors, options)
        except (BlobChangedError, BlobNotFoundError):
            files = [self._files[blob] for blob in {info.blob for info in tensors}]
            if None not in files and any(file.is_detached() for file in files if file is not None):
                return None
            raise

    def _stream(self, tensors: Sequence[TensorInfo], options: Options) -> slipstream.TensorStream:
        """Begins to read some tensors, of the blobs whose headers were read and of no others."""
        blobs = list(dict.fromkeys(info.blob for info in tensors))
        names = frozenset(info.name for info in tensors)
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
