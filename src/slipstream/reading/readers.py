"""The open blobs of one load: each opened by who first reads from it, closed by who reads its last byte."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial

from slipstream.reading.base import BlobReader, NoteFallback
from slipstream.reading.buffered import BufferedReader
from slipstream.reading.direct import DirectReader
from slipstream.reading.mapped import MappedReader
from slipstream.sources.base import RemoteSource
from slipstream.sources.registry import Sources
from slipstream.types import Blob, ReadOp, ReadPlan, Strategy, StrategyChoice, StripWay


class Readers:
    """Opens and closes readers as a plan wants them, and notes what was refused. Thread-safe."""

    def __init__(self, plan: ReadPlan, sources: Sources) -> None:
        self._plan = plan
        self._sources = sources
        self._lock = threading.Lock()  # guards the fields below; never held during I/O or with another lock
        self._readers: dict[tuple[int, Strategy], BlobReader] = {}
        self._fallbacks: list[str] = []
        self._unread_bytes = [0] * len(plan.checkpoint.blobs)
        self._opening = [threading.Lock() for _ in plan.checkpoint.blobs]
        for op in plan.ops:
            self._unread_bytes[op.blob] += op.nbytes

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """What was refused by the kernel or a file system, and what was done instead."""
        return tuple(self._fallbacks)

    def find(self, op: ReadOp) -> BlobReader:
        """The reader of the op's blob, opened by the first worker that needs it. What is mapped cannot be gathered.

        Raises:
            SlipstreamError: it cannot be opened, or is no longer what the plan was made for.
        """
        blob, choice = op.blob, self._plan.choices[op.blob]
        assert choice is not None, "an op of a blob that was not planned"
        if op.gather is not None and choice.strategy is Strategy.MAPPED:
            strategy = Strategy.DIRECT if op.gather.way is StripWay.SECTORS else Strategy.BUFFERED
            choice = replace(choice, strategy=strategy)
        with self._opening[blob]:
            reader = self._readers.get((blob, choice.strategy))
            if reader is None:
                note = partial(self.note_fallback, blob)
                reader = self._open(self._plan.checkpoint.blobs[blob], choice, note)
                with self._lock:
                    self._readers[blob, choice.strategy] = reader
            return reader

    def count_down(self, blob: int, length: int) -> None:
        """Notes what was read. Whoever reads a blob's last byte closes it, having made sure that it was one all along.

        Raises:
            BlobChangedError: it was changed.
        """
        if not length:
            return
        with self._lock:
            self._unread_bytes[blob] -= length
            if self._unread_bytes[blob]:
                return
            readers = [self._readers.pop(key) for key in list(self._readers) if key[0] == blob]
        try:
            for reader in readers:
                reader.check_unchanged()
        finally:
            for reader in readers:
                reader.close()

    def note_fallback(self, blob: int, text: str) -> None:
        """Notes a refusal, once, and logs it."""
        line = f"{self._plan.checkpoint.blobs[blob].uri}: {text}"
        with self._lock:
            if line in self._fallbacks:
                return
            self._fallbacks.append(line)
        warn(line)

    def close(self) -> None:
        """Closes what is still open. Called when nobody reads any more; safe to call again."""
        with self._lock:
            readers = list(self._readers.values())
            self._readers.clear()
        for reader in readers:
            reader.close()

    def _open(self, blob: Blob, choice: StrategyChoice, note_fallback: NoteFallback) -> BlobReader:
        match choice.strategy:
            case Strategy.MAPPED:
                return MappedReader(blob, note_fallback, huge_pages=choice.huge_pages, exact=choice.exact)
            case Strategy.DIRECT:
                return DirectReader(blob, note_fallback, exact=choice.exact)
            case Strategy.BUFFERED:
                return BufferedReader(blob, exact=choice.exact, huge_pages=choice.huge_pages)
            case Strategy.GDS:
                return open_gds_reader(blob, note_fallback, exact=choice.exact)
            case Strategy.RANGED:
                from slipstream.reading.ranged import RangedReader  # here, because local loads need nothing of it

                source = self._sources.find(blob.uri)
                assert isinstance(source, RemoteSource), "a blob behind HTTP has a source that grants access"
                return RangedReader(blob, source, self._sources.client, note_fallback)


def open_gds_reader(blob: Blob, note_fallback: NoteFallback, *, exact: bool) -> BlobReader:
    """A reader by GPUDirect Storage."""
    from slipstream.reading.gds import GdsReader  # here, because few loads need it

    return GdsReader(blob, note_fallback, exact=exact)


def warn(text: str) -> None:
    """Logs a warning as "slipstream": silent unless the application configures logging."""
    import logging  # here and not above, because few loads need it, and it costs a tenth of `import slipstream`

    logger = logging.getLogger("slipstream")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    logger.warning("%s", text)
