"""A checkpoint that is open: finds its tensors by name, and reads ahead of who asks for one after another.

whole tensor   what was read ahead; else a view of the mapped file, or a stream of its own
part of one    a view of the mapped file, or only the byte ranges that hold it
all            views of the mapped files where the page cache has them, else one stream
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, cast

from slipstream.safetensors.arrays import Arrays, is_whole
from slipstream.safetensors.blobs import Blobs
from slipstream.safetensors.errors import NoSuchTensorError
from slipstream.safetensors.orders import likely_orders
from slipstream.safetensors.read_ahead import MOST_AHEAD_BYTES, ReadAhead
from slipstream.types import Checkpoint, TensorInfo

if TYPE_CHECKING:
    from slipstream.safetensors.arrays import Tensor


class Archive:
    """Reads the tensors of one checkpoint. Safe to use from many threads, and after a fork.

    It is not closed: what it maps goes with the last tensor. `stop_reading_ahead` ends what happens in the background.

    Attributes:
        checkpoint: what is in it.
        keys: the names of its tensors, as `safe_open.keys` gives them.
    """

    def __init__(self, blobs: Blobs, arrays: Arrays) -> None:
        self.checkpoint: Checkpoint = blobs.checkpoint
        self.keys = tuple(sorted(info.name for info in self.checkpoint.tensors))
        self._blobs = blobs
        self._arrays = arrays
        self._is_stopped = False
        self._ahead: dict[int, ReadAhead] = {}  # by process: a forked child has none of the threads of its parent

    def __repr__(self) -> str:
        blobs = self.checkpoint.blobs
        more = f" and {len(blobs) - 1} more" if len(blobs) > 1 else ""
        return f"<Archive {blobs[0].uri if blobs else ''}{more}: {len(self.keys)} tensors>"

    @cached_property
    def data_starts(self) -> Mapping[int, int]:
        """For each blob that has tensors, where the data begins that its header's offsets count from."""
        return {info.blob: info.start for info in reversed(self.checkpoint.tensors)}

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
        return self._blobs.read(info) if ahead is None else ahead

    def read_part(self, info: TensorInfo, index: object) -> Tensor:
        """What an index takes of a tensor. One that plainly takes all of it counts as asking for the tensor.

        Raises:
            What the framework raises for the index; see Arrays.
        """
        if is_whole(index):
            return self._arrays.index(self.read(info), index)
        if not self._is_stopped:
            self._read_ahead().break_off()
        return self._blobs.read_part(info, index)

    def read_all(self) -> dict[str, Tensor]:
        """All tensors by name, in the order of the file."""
        tensors = self.checkpoint.tensors
        options = self._blobs.options
        if options.populate == "auto":
            options = replace(options, populate=True)
        stream = None
        if not self._blobs.is_near(tensors):
            stream = self._blobs.stream_unless_detached(tensors, options)
        if stream is None:
            return {info.name: self._blobs.read(info) for info in tensors}
        with stream:
            found = cast("dict[str, Tensor]", dict(stream))  # of no other framework
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
        blobs = self._blobs  # which knows nothing of this: so both go with the last reference
        limit = blobs.options.memory_limit
        options = replace(blobs.options, memory_limit=None)  # of which the tensors that the caller holds would count
        return ReadAhead(
            partial(likely_orders, self.checkpoint.tensors, self.keys),
            partial(blobs.stream_unless_detached, options=options),
            blobs.is_near,
            MOST_AHEAD_BYTES if limit is None else min(limit, MOST_AHEAD_BYTES),
        )
