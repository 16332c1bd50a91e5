"""Files on their way into a directory: written as their ranges come, settled by one thread beside that.

    caller's thread      write(): pwrite into the partial file, a note of the span
    "slipstream-files"   about once a second: fsync, and a line in the record
                         at the last span:    fsync, rename, fsync of the folder, and a line in the record

Bringing bytes to the disk takes as long as the disk does. Done here, it holds up no range that has come; and as it goes
on all the time, little is left of it for the end. What is noted in the record is on the disk: a process that is killed
loses what it has written in its last second, and a machine that loses its power no more than that.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from time import monotonic
from types import TracebackType
from typing import NamedTuple, Self

from slipstream.errors import SlipstreamError, WriteError
from slipstream.pulling.directory import Directory
from slipstream.pulling.record import Record, name_partial
from slipstream.pulling.spans import Span, count_bytes, find_missing, merge_spans
from slipstream.types import ListedFile

# How much of the work a killed process loses, against how often a file is brought to the disk.
_SETTLE_EVERY_S = 1.0


class NewFile(NamedTuple):
    """A file that is not there yet, and what of it is in its partial file already."""

    file: ListedFile
    landed: tuple[Span, ...]

    @property
    def missing(self) -> tuple[Span, ...]:
        """What has to be fetched."""
        return find_missing(self.file.blob.size, self.landed)


class Arrivals:
    """The files that one pull fetches. A context manager: its exit settles what has come, also after an error.

    One thread writes; any may look at `finished`.

    Attributes:
        finished: how many files are whole, and under their own names.
    """

    def __init__(self, directory: Directory, record: Record, files: Sequence[NewFile]) -> None:
        self._directory = directory
        self._record = record
        self._files = files
        self._landed = [new.landed for new in files]  # the settling thread's
        self._left = [count_bytes(new.missing) for new in files]  # the writing thread's
        self._changed = threading.Condition()  # guards those below
        self._notes: dict[int, list[Span]] = {}
        self._urgent = False
        self._closing = False
        self._error: BaseException | None = None
        self.finished = 0
        self._thread = threading.Thread(target=self._settle_all, name="slipstream-files", daemon=True)

    def __enter__(self) -> Self:
        """Begins, with the files of which nothing is missing."""
        for number, new in enumerate(self._files):
            if not self._left[number]:
                self._directory.write_own(name_partial(new.file), 0, b"")  # so that an empty one is there
                self._note(number, (0, 0))
        try:
            self._thread.start()
        except RuntimeError as error:
            text = f"no thread can be started ({error}): raise the limit on processes (ulimit -u)"
            raise SlipstreamError(text) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        interruption = self._close()
        self._remove_useless_partials()
        failure = self._error or interruption
        if failure is None:
            return
        if error is None:
            raise failure
        if failure is not error:
            error.add_note(f"and what had come could not all be kept: {failure}")

    def write(self, number: int, start: int, data: memoryview) -> None:
        """Writes a range of a file. The data is not kept.

        Args:
            number: position of the file.
            start: offset of the range in it.
            data: its bytes.

        Raises:
            WriteError: the disk is full, or failed, now or while earlier ranges were settled.
        """
        if self._error is not None:
            raise self._error
        self._directory.write_own(name_partial(self._files[number].file), start, data)
        self._left[number] -= len(data)
        self._note(number, (start, start + len(data)))

    def _note(self, number: int, span: Span) -> None:
        with self._changed:
            self._notes.setdefault(number, []).append(span)
            if not self._left[number]:
                self._urgent = True
                self._changed.notify()

    def _close(self) -> BaseException | None:
        """Has all that has come settled. A Ctrl-C meanwhile is returned: the disk will not take for ever."""
        interruption: BaseException | None = None
        with self._changed:
            self._closing = True
            self._changed.notify()
        while self._thread.is_alive():
            try:
                self._thread.join()
            except KeyboardInterrupt as error:
                interruption = error
        return interruption

    def _settle_all(self) -> None:
        """What the thread does, until all is settled and nothing more comes."""
        try:
            while notes := self._wait_notes():
                for number, spans in notes.items():
                    self._settle(number, spans)
        except BaseException as error:
            self._error = error

    def _wait_notes(self) -> dict[int, list[Span]]:
        """What has come since: at once where a file is whole, else after a while. Nothing at the end."""
        settled_at = monotonic()
        with self._changed:
            while not (self._closing or self._urgent):
                left_s = settled_at + _SETTLE_EVERY_S - monotonic()
                if left_s <= 0 and self._notes:
                    break
                self._changed.wait(max(left_s, 0.0) or _SETTLE_EVERY_S)
            self._urgent = False
            notes, self._notes = self._notes, {}
            return notes

    def _settle(self, number: int, spans: Sequence[Span]) -> None:
        """Brings to the disk what has come of a file, notes it, and gives the file its name if it is whole."""
        file = self._files[number].file
        status = self._directory.sync_own(name_partial(file))
        self._landed[number] = merge_spans((*self._landed[number], *spans))
        if find_missing(file.blob.size, self._landed[number]):
            if file.blob.etag is not None:
                self._record.note_landed(file, merge_spans(spans))
            return
        if status.st_size != file.blob.size:
            raise WriteError(
                f"{file.path} in {self._directory.path} has {status.st_size:,} bytes and not {file.blob.size:,}: "
                "somebody else has written to it. Pull again",
                uri=file.blob.uri,
            )
        self._directory.move_own(name_partial(file), file.path)
        self._record.note_whole(file, status.st_mtime_ns)
        self.finished += 1

    def _remove_useless_partials(self) -> None:
        """Those of files without an ETag: nobody could tell whether they may be gone on with."""
        for new in self._files:
            if new.file.blob.etag is None:
                with contextlib.suppress(WriteError):
                    self._directory.remove_own(name_partial(new.file))
