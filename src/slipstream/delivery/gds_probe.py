"""Whether GPUDirect Storage is faster than the ring here: both read a little of the file itself, once for each volume.

It costs some tens of milliseconds, and up to half a second for cuFile's driver to start: so it is done for large files
alone, and only where KvikIO is installed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

from slipstream.reading.gds import open_for_gds
from slipstream.types import Blob, StorageFacts

if TYPE_CHECKING:
    from slipstream.delivery.accelerator import Accelerator

_LEAST_BYTES = 4 << 30
_PIECE_BYTES = 8 << 20
_PIECES = 16  # for each of the two ways
_THREADS = 8
_GAINS: dict[str, float] = {}  # by volume; 0 where it does not work
_GUARD = Lock()


def may_probe(facts: StorageFacts, blob: Blob) -> bool:
    """Whether it is worth a probe: a large file on a local disk, none of it in memory yet."""
    return not (facts.over_http or facts.remote or facts.in_memory or facts.cached_bytes) and blob.size >= _LEAST_BYTES


def see_gds_gain(facts: StorageFacts, blob: Blob, accelerator: Accelerator) -> StorageFacts:
    """The facts, with how many times faster GPUDirect Storage is. The first of a volume measures it."""
    with _GUARD:
        if facts.volume not in _GAINS:
            try:
                _GAINS[facts.volume] = _measure(blob, accelerator)
            except (ImportError, OSError, RuntimeError):
                _GAINS[facts.volume] = 0.0
        return replace(facts, gds_gain=_GAINS[facts.volume])


def _measure(blob: Blob, accelerator: Accelerator) -> float:
    descriptor = os.open(blob.uri, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
    try:
        file = open_for_gds(descriptor)
        try:
            with accelerator.copying():
                buffer = accelerator.allocate(_PIECES * _PIECE_BYTES)
                accelerator.record().wait()
            ours, theirs = range(0, 2 * _PIECES, 2), range(1, 2 * _PIECES, 2)
            return _time(partial(_through_ring, descriptor, buffer, accelerator), ours) / _time(
                partial(_past_host, file, buffer), theirs
            )
        finally:
            file.close()
    finally:
        os.close(descriptor)


def _time(read: Callable[[int], object], pieces: range) -> float:
    with ThreadPoolExecutor(_THREADS) as pool:
        began = time.perf_counter()
        list(pool.map(read, pieces))
        return time.perf_counter() - began


def _through_ring(descriptor: int, buffer: Any, accelerator: Accelerator, piece: int) -> None:
    import torch

    slot = accelerator.memory.make(_PIECE_BYTES)
    os.preadv(descriptor, [slot.view], piece * _PIECE_BYTES)
    with accelerator.copying():
        start = piece // 2 * _PIECE_BYTES
        buffer[start : start + _PIECE_BYTES].copy_(torch.frombuffer(slot.view, dtype=torch.uint8), non_blocking=True)
        event = accelerator.record()
    event.wait()
    accelerator.memory.keep([slot])


def _past_host(file: Any, buffer: Any, piece: int) -> None:
    file.raw_read(buffer, _PIECE_BYTES, piece * _PIECE_BYTES, piece // 2 * _PIECE_BYTES)
