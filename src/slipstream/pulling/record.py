"""What is known of the files of a directory: `DIRECTORY/.slipstream/pull.jsonl`.

One line for each thing that has happened, appended once it is true of the disk:

    {"path": "config.json", "uri": "s3://m/config.json", "size": 654, "etag": "9b2c", "mtime_ns": 1700000000000000000}
    {"path": "a.safetensors", "uri": "s3://m/a.safetensors", "size": 9000, "etag": "77", "landed": [[0, 4096]]}

The first says that the file is whole, the second that these bytes of it are in its partial file. A line that cannot be
read says nothing: what it stood for is fetched again. Whoever holds the lock writes, with a compact record at first;
anybody reads.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from slipstream.pulling.directory import Directory, explain_write
from slipstream.pulling.names import OWN_FOLDER
from slipstream.pulling.spans import Span, merge_spans
from slipstream.types import Blob, ListedFile

_NAME = "pull.jsonl"
_PARTIAL = ".partial"
# Given back when the disk is full, so that there is room to note what has come by then.
_RESERVE = "reserve"
_RESERVE_BYTES = 64 << 10
_SECOND_NS = 10**9


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one file.

    Attributes:
        blob: what it is, or will be, a copy of.
        landed: what of it is in the partial file; empty once it is whole.
        mtime_ns: its time of change, by which it is told whether somebody has changed it since; None until it is whole.
    """

    blob: Blob
    landed: tuple[Span, ...] = ()
    mtime_ns: int | None = None


def read_record(directory: Directory) -> dict[str, Known]:
    """What is known, by path. The later of two lines counts; spans of the same blob add up."""
    known: dict[str, Known] = {}
    for line in directory.read_own(_NAME).splitlines():
        try:
            path, found = _parse_line(line)
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        before = known.get(path)
        if found.landed and before is not None and before.blob == found.blob:
            found = Known(found.blob, merge_spans((*before.landed, *found.landed)))
        known[path] = found
    return known


def is_there(directory: Directory, file: ListedFile, known: Known | None) -> bool:
    """Whether the directory holds this very file, whole, and as it was written. Empty ones are all the same."""
    if known is None or known.mtime_ns is None or known.blob != file.blob:
        return False
    if file.blob.etag is None and file.blob.size:
        return False
    status = directory.see(file.path)
    return status is not None and status.st_size == file.blob.size and _same_time(status.st_mtime_ns, known.mtime_ns)


def name_partial(file: ListedFile) -> str:
    """The file of our own in which a file grows: another one for each version of it, so that none is mixed."""
    identity = "\0".join((file.path, file.blob.uri, str(file.blob.size), file.blob.etag or ""))
    return hashlib.blake2b(os.fsencode(identity), digest_size=16).hexdigest() + _PARTIAL


class Record:
    """The record of a directory, open for writing under its lock. A context manager; one thread at a time uses it."""

    def __init__(self, directory: Directory, wanted: Sequence[ListedFile]) -> None:
        """Reads what is known, writes it compactly, and removes partial files that nobody will go on with.

        Args:
            directory: whose.
            wanted: the files that are pulled now.

        Raises:
            WriteError: it cannot be written.
        """
        self._directory = directory
        self._path = os.path.join(directory.path, OWN_FOLDER, _NAME)
        self.known = read_record(directory)
        for file in wanted:
            known = self.known.get(file.path)
            if known is not None and not is_there(directory, file, known):
                self.known.pop(file.path)
                landed = self._check_landed(file, known)
                if landed:
                    self.known[file.path] = Known(file.blob, landed)
        self._remove_stray_partials()
        directory.replace_own(_NAME, b"".join(_make_line(path, known) for path, known in self.known.items()))
        directory.write_own(_RESERVE, 0, b"\n" * _RESERVE_BYTES)
        self._descriptor = directory.open_own(_NAME, os.O_WRONLY | os.O_APPEND)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._descriptor)
        self._directory.remove_own(_RESERVE)

    def is_there(self, file: ListedFile) -> bool:
        """Whether the directory holds this very file."""
        return is_there(self._directory, file, self.known.get(file.path))

    def landed(self, file: ListedFile) -> tuple[Span, ...]:
        """What of a file that is not there is in its partial file."""
        known = self.known.get(file.path)
        return () if known is None else known.landed

    def note_landed(self, file: ListedFile, spans: Sequence[Span]) -> None:
        """Notes that these bytes are in the partial file, on the disk."""
        self._append(_make_line(file.path, Known(file.blob, tuple(spans))))

    def note_whole(self, file: ListedFile, mtime_ns: int) -> None:
        """Notes that the file is whole, under its own name, on the disk."""
        self._append(_make_line(file.path, Known(file.blob, (), mtime_ns)))

    def _check_landed(self, file: ListedFile, known: Known) -> tuple[Span, ...]:
        """What of a file may be gone on with: of the same blob, as it is now, in a partial file that is there."""
        if known.blob != file.blob or file.blob.etag is None or not known.landed:
            return ()
        status = self._directory.see_own(name_partial(file))
        if status is None or not known.landed[-1][1] <= min(status.st_size, file.blob.size):
            return ()
        return known.landed

    def _remove_stray_partials(self) -> None:
        kept = {name_partial(ListedFile(path, known.blob)) for path, known in self.known.items() if known.landed}
        for name in self._directory.list_own():
            if name.endswith(_PARTIAL) and name not in kept:
                self._directory.remove_own(name)

    def _append(self, line: bytes) -> None:
        """A line goes to the file in one write, so that a reader sees it whole or not at all."""
        if self._try_append(line):
            return
        self._directory.remove_own(_RESERVE)
        if not self._try_append(b"\n" + line):  # the first try may have left a part of it
            raise explain_write(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), self._path)

    def _try_append(self, line: bytes) -> bool:
        """Whether there was room for it."""
        try:
            return os.write(self._descriptor, line) == len(line)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                return False
            raise explain_write(error, self._path) from error


def _same_time(now_ns: int, then_ns: int) -> bool:
    """Whether a time of change is still the same. Archives and images keep whole seconds."""
    return now_ns == then_ns or (now_ns % _SECOND_NS == 0 and now_ns // _SECOND_NS == then_ns // _SECOND_NS)


def _make_line(path: str, known: Known) -> bytes:
    entry: dict[str, object] = {
        "path": path,
        "uri": known.blob.uri,
        "size": known.blob.size,
        "etag": known.blob.etag,
    }
    if known.mtime_ns is None:
        entry["landed"] = known.landed
    else:
        entry["mtime_ns"] = known.mtime_ns
    return json.dumps(entry).encode() + b"\n"


def _parse_line(line: bytes) -> tuple[str, Known]:
    """Raises ValueError, KeyError or TypeError for what `_make_line` does not make."""
    entry = json.loads(line)
    if not isinstance(entry, Mapping):
        raise TypeError
    path, uri, size, etag = entry["path"], entry["uri"], entry["size"], entry["etag"]
    if not (isinstance(path, str) and isinstance(uri, str) and isinstance(size, int) and isinstance(etag, str | None)):
        raise TypeError
    blob = Blob(uri, size, etag)
    if "mtime_ns" in entry:
        return path, Known(blob, (), int(entry["mtime_ns"]))
    return path, Known(blob, _parse_spans(entry["landed"], size))


def _parse_spans(spans: Iterable[Sequence[int]], size: int) -> tuple[Span, ...]:
    parsed = [(int(start), int(end)) for start, end in spans]
    if not all(0 <= start <= end <= size for start, end in parsed):
        raise ValueError
    return merge_spans(parsed)
