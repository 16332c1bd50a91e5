"""A stream of weights for a model that is being filled, with its progress in the log. Knows nothing of vLLM."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import slipstream
from slipstream import LoadStats, MemoryLimitError, Progress, TensorStream
from slipstream.integrations.vllm.settings import LoaderSettings

if TYPE_CHECKING:
    import torch
    import torch.distributed

# What may be in memory between a store, or other ranks, and the model, where the user says nothing: enough for every
# network there is, and a model larger than the host's memory passes through. Local files that a rank reads for itself
# are mapped: the kernel can take that back.
_READ_AHEAD_BYTES = 8 << 30
_SECONDS_BETWEEN_LINES = 5.0


def stream_weights(
    uris: str | Sequence[str],
    settings: LoaderSettings,
    names: Callable[[str], bool],
    prefix: str,
    log: Callable[..., object],
    *,
    group: torch.distributed.ProcessGroup | None = None,
    skips: Callable[[str], bool] = lambda name: False,
) -> Iterator[tuple[str, torch.Tensor]]:
    """Streams the tensors that are wanted, in the order in which they come.

    Args:
        uris: what `slipstream.stream` is given.
        settings: how to read.
        names: which tensors.
        prefix: is put before each name.
        log: takes a line for people, as logging's `info` does.
        group: whose ranks share the reading; all of them ask for the same names. None is a load of one's own.
        skips: which tensors are read, because other ranks need them, and dropped here.

    Yields:
        (name, tensor) on the CPU. A tensor is valid for as long as it is held; under a memory limit, one that is held
        takes its part of that.

    Raises:
        SlipstreamError: as `slipstream.stream` does, at once and while iterating.
    """
    report = _Report(log)
    with _begin(uris, settings, names, report, group) as tensors:
        for name, tensor in tensors:
            if not skips(name):
                yield prefix + name, cast("torch.Tensor", tensor)
            del tensor  # so that its memory is free before the next one is waited for
        log("%s", _summarize(tensors.stats()))


def _begin(
    uris: str | Sequence[str],
    settings: LoaderSettings,
    names: Callable[[str], bool],
    report: _Report,
    group: torch.distributed.ProcessGroup | None,
) -> TensorStream:
    options = settings.options
    remote = any("://" in uri for uri in ([uris] if isinstance(uris, str) else uris))
    if (remote or group is not None) and not settings.limited:
        try:
            return _stream(uris, settings, names, report, group, replace(options, memory_limit=_READ_AHEAD_BYTES))
        except MemoryLimitError:  # a single tensor is larger, which every rank is told
            pass
    return _stream(uris, settings, names, report, group, options)


def _stream(
    uris: str | Sequence[str],
    settings: LoaderSettings,
    names: Callable[[str], bool],
    report: _Report,
    group: torch.distributed.ProcessGroup | None,
    options: slipstream.Options,
) -> TensorStream:
    return slipstream.stream(
        uris,
        framework="torch",
        names=names,
        options=options,
        storage_options=settings.storage_options,
        distributed=group,
        progress=report,
    )


class _Report:
    """Writes a line every few seconds: vLLM's log is read in files, where a bar is many lines."""

    def __init__(self, log: Callable[..., object]) -> None:
        self._log = log
        self._next_s = _SECONDS_BETWEEN_LINES

    def __call__(self, progress: Progress) -> None:
        if progress.seconds >= self._next_s:
            self._next_s = progress.seconds + _SECONDS_BETWEEN_LINES
            self._log(
                "slipstream: %.1f of %.1f GB in %.0f s (%.2f GB/s), %d of %d tensors in the model",
                progress.bytes_read / 1e9,
                progress.bytes_total / 1e9,
                progress.seconds,
                progress.bytes_read / progress.seconds / 1e9,
                progress.tensors_delivered,
                progress.tensors_total,
            )


def _summarize(stats: LoadStats) -> str:
    ways = ", ".join(sorted({file.strategy.value for file in stats.files}))
    healed = f", {stats.retries} requests made again" if stats.retries else ""
    shared = ""
    if stats.ranks > 1:
        shared = f", of which this one of {stats.ranks} ranks read {(stats.bytes - stats.received_bytes) / 1e9:.2f} GB"
    return (
        f"slipstream: loaded {stats.bytes / 1e9:.2f} GB in {stats.seconds:.2f} s "
        f"({stats.gigabytes_per_second:.2f} GB/s), {stats.tensors} tensors of {len(stats.files)} files, "
        f"{ways}{shared}{healed}"
    )
