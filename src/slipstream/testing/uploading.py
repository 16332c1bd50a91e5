"""Writes a synthetic checkpoint into an object store: S3, Google Cloud Storage, Azure Blob Storage.

    upload_checkpoint("llama-3-8b", "s3://models/llama", shards=4, storage_options={...})

Nothing is written to a disk, and about 200 MB of memory are used, whatever the model's size: parts are made while those
before them are on their way. Each file is one multipart upload by obstore, in a thread of its own:

    makers ──parts, in order──▶ _Sending: an iterator ──▶ obstore.put, four parts at once ──▶ the store
                                     └─ waits at its end until all files of the checkpoint have come so far

A multipart upload is seen by nobody before it is completed, and obstore aborts one whose iterator raises. So a failure,
or Ctrl-C, at any time before the last byte is uploaded leaves nothing to be seen and, where the server can still be
asked, nothing at all. `commit` lets the iterators end, shards first, index and config last.

Not tried against fake-gcs-server, which refuses obstore's uploads, a fault of that server.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from slipstream.errors import AccessDeniedError, SlipstreamError, UsageError
from slipstream.sources.azure_credentials import complete_azure_options
from slipstream.sources.credentials import Container
from slipstream.sources.locations import Location, is_blob_url, parse_location
from slipstream.sources.schemes import SCHEMES
from slipstream.sources.storage_options import parse_storage_options
from slipstream.sources.store_failures import explain_failure
from slipstream.sources.stores import OpenContainer, open_container
from slipstream.testing.destination import NewFile, Part, Report, is_own, open_makers, refuse_names
from slipstream.testing.layouts import Layout
from slipstream.testing.synthetic import compose_checkpoint
from slipstream.transport.access import StoreKind

if TYPE_CHECKING:
    from slipstream.sources.stores import Store

_PART_BYTES = 8 << 20  # at least; S3 takes no smaller parts than 5 MiB, but for the last
_MOST_PARTS = 10_000  # S3's limit
_PARTS_IN_FLIGHT = 4
_PARTS_AHEAD = 4
_MOST_FILES = 512  # each is a thread until all are whole
# Longer than for the requests of a load: a slow uplink takes its time over a part, and is silent meanwhile.
_ANSWER_S = 60
_WHOLE_REQUEST_S = 300
_ALSO_NEEDED: Mapping[StoreKind, str] = {
    "s3": "s3:PutObject, s3:DeleteObject and s3:AbortMultipartUpload",
    "gs": "storage.objects.create and storage.objects.delete",
    "az": "the role Storage Blob Data Contributor, or a SAS token with write and delete",
}


@dataclass(frozen=True, slots=True)
class UploadedCheckpoint:
    """What `upload_checkpoint` wrote.

    Attributes:
        uri: the checkpoint's prefix, as a load takes it.
        files: the URIs of its safetensors objects, in model order.
        tensors: how many tensors.
        nbytes: bytes of all tensors, without headers.
    """

    uri: str
    files: tuple[str, ...]
    tensors: int
    nbytes: int


def upload_checkpoint(
    layout: str | Layout,
    uri: str,
    *,
    storage_options: Mapping[str, object] | None = None,
    layers: int | None = None,
    shards: int = 1,
    seed: int = 0,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> UploadedCheckpoint:
    """Writes into an object store what `synthetic.write_checkpoint` writes into a directory, byte for byte.

    Args:
        uri: the prefix to write under. The bucket or container must be there.
        storage_options: how the store is reached, as in `slipstream.stream`.
        layout, layers, shards, seed, progress: as in `write_checkpoint`.
        force: replace the checkpoint that is there. It is removed when the new one is uploaded and about to appear.

    Raises:
        UsageError: no URI of an object store; no such layout, layers or shards; a checkpoint is there already.
        BlobNotFoundError: there is no such bucket.
        AccessDeniedError: it may not be listed or written.
        SlipstreamError: the store or the network failed. As after any failure, Ctrl-C included, nothing is left to be
            seen, unless the text says what could not be removed.
    """
    contents = compose_checkpoint(layout, layers=layers, shards=shards, seed=seed)
    if len(contents.shards) > _MOST_FILES:
        raise UsageError(f"an upload has {_MOST_FILES} shards at most, not {shards}")
    with Upload(uri, storage_options, force=force) as upload:
        contents.write_to(upload, progress)
        upload.commit()
    return UploadedCheckpoint(
        uri=upload.prefix.uri,
        files=tuple(upload.prefix.at(upload.prefix.key + file.name).uri for file in contents.shards),
        tensors=contents.tensors,
        nbytes=contents.nbytes,
    )


class Upload:
    """Collects files under a prefix; a context manager whose exit removes what was not committed. A Destination.

    It belongs to one thread.

    Attributes:
        prefix: where; its key ends with a slash, or is empty.
        found: what lay right under it before: sizes by name.
    """

    def __init__(self, uri: str, storage_options: Mapping[str, object] | None = None, *, force: bool = False) -> None:
        """Lists the prefix, and so finds out whether the store can be asked.

        Raises:
            UsageError, AccessDeniedError, SlipstreamError: see `upload_checkpoint`.
        """
        self.prefix = _parse_prefix(uri)
        self._opened = _open_store(self.prefix, storage_options)
        self._store = _with_patience(self._opened.store)
        self._sendings: list[_Sending] = []
        self._visible: list[str] = []
        self._committed = False
        self.found: Mapping[str, int] = self._list()
        refuse_names([*self.found], self.prefix.uri, force=force)
        self._old = [name for name in self.found if is_own(name)]
        self._makers = open_makers()

    def __repr__(self) -> str:
        return f"<Upload to {self.prefix.uri}: {len(self._sendings)} files>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            left = [] if self._committed else self._discard()
        finally:
            self._makers.shutdown(cancel_futures=True)
        if isinstance(error, SlipstreamError) and not self._committed:
            seen = f"what may still be there is {', '.join(left)}" if left else "nothing of it is to be seen there"
            _add_sentence(error, seen)

    def write(self, files: Sequence[NewFile], report: Report) -> None:
        """See Destination. Files go one after another."""
        for file in files:
            sending = _Sending(self._store, self.prefix.key + file.name, file, self._makers)
            self._sendings.append(sending)
            sending.wait_sent(report)
            if sending.failure is not None:
                raise self._explain(sending.failure, sending.key, "written")

    def commit(self) -> None:
        """See Destination. The old checkpoint goes before the new one comes: no reader finds parts of both."""
        for name in self._old:
            self._delete(self.prefix.key + name)
        for sending in self._sendings:
            self._visible.append(sending.key)  # now, since a completion without an answer may have happened
            sending.finish()
            if sending.failure is not None:
                raise self._explain(sending.failure, sending.key, "written")
        self._committed = True

    def _discard(self) -> list[str]:
        """Aborts what is on its way and removes what is visible; returns the keys of which that is not sure."""
        for sending in self._sendings:
            sending.abandon()
        for sending in self._sendings:
            sending.join()
        for number, key in enumerate(self._visible):
            try:
                self._delete(key)
            except SlipstreamError:  # nor would the others go
                return self._visible[number:]
        return []

    def _list(self) -> dict[str, int]:
        import obstore

        try:
            found = obstore.list_with_delimiter(self._store, self.prefix.key)
        except Exception as error:
            failure = error
        else:
            return {entry["path"].rpartition("/")[2]: entry["size"] for entry in found["objects"]}
        raise self._explain(failure, self.prefix.key, "listed")

    def _delete(self, key: str) -> None:
        import obstore

        try:
            obstore.delete(self._store, key)
        except FileNotFoundError:
            return
        except Exception as error:
            failure = error
        else:
            return
        raise self._explain(failure, key, "removed")

    def _explain(self, failure: BaseException, key: str, done: str) -> SlipstreamError:
        """The library's error for what obstore raised, of which nothing is kept: its texts may hold signed URLs."""
        if not isinstance(failure, Exception):
            raise failure
        explained = explain_failure(failure, self._opened, key, done)
        if isinstance(explained, AccessDeniedError) and done != "listed" and explained.status == 403:
            _add_sentence(explained, f"Writing takes {_ALSO_NEEDED[self.prefix.kind]} besides")
        return explained


class _Abandoned(Exception):
    """Raised within an iterator that obstore reads from, so that it aborts the upload."""


class _Sending:
    """One file on its way to the store, in a thread of its own, from construction until `join` or `finish`."""

    def __init__(self, store: Store, key: str, file: NewFile, makers: ThreadPoolExecutor) -> None:
        self.key = key
        self.failure: BaseException | None = None
        self._store = store
        self._file = file
        self._makers = makers
        self._events: SimpleQueue[int | None] = (
            SimpleQueue()
        )  # so many bytes more were taken; None: all, or none will be
        self._may_end = threading.Event()
        self._abandoned = False
        self._thread = threading.Thread(target=self._send, name="slipstream-upload")
        self._thread.start()

    def wait_sent(self, report: Report) -> None:
        """Waits until the store's client has taken every byte, or the upload has failed."""
        while (nbytes := self._events.get()) is not None:
            report(nbytes)

    def finish(self) -> None:
        """Has the upload completed: the object is there afterwards, or `failure` says why not."""
        self._may_end.set()
        self._thread.join()

    def abandon(self) -> None:
        """Has the upload aborted, unless it is complete."""
        self._abandoned = True
        self._may_end.set()

    def join(self) -> None:
        """Waits until nothing of it runs any more."""
        self._thread.join()

    def _send(self) -> None:
        import obstore

        try:
            chunk_bytes = _chunk_bytes(self._file.nbytes)
            obstore.put(
                self._store,
                self.key,
                self._bodies(),
                use_multipart=True,
                chunk_size=chunk_bytes,
                max_concurrency=_PARTS_IN_FLIGHT,
            )
        except BaseException as error:
            self.failure = error
        finally:
            self._events.put(None)

    def _bodies(self) -> Iterator[bytes | memoryview]:
        ahead: deque[Future[tuple[Part, bytes | memoryview]]] = deque()
        waiting = iter(self._file.parts)
        try:
            while True:
                while len(ahead) < _PARTS_AHEAD and (part := next(waiting, None)) is not None:
                    ahead.append(self._makers.submit(_make, part))
                if not ahead:
                    break
                part, body = ahead.popleft().result()
                if self._abandoned:
                    raise _Abandoned
                if part.nbytes:
                    yield body
                self._events.put(part.nbytes)
        finally:
            for future in ahead:
                future.cancel()
        self._events.put(None)
        self._may_end.wait()
        if self._abandoned:
            raise _Abandoned


def _make(part: Part) -> tuple[Part, bytes | memoryview]:
    return part, part.make()


def _chunk_bytes(nbytes: int) -> int:
    """The size of a multipart upload's parts: such that hardly anything is left over for the last of them.

    What is left over waits in memory, for each file, until all files are complete.
    """
    parts = min(max(nbytes // _PART_BYTES, 1), _MOST_PARTS - 1)
    return max(nbytes // parts, 1)


def _parse_prefix(uri: str) -> Location:
    scheme = uri.partition("://")[0].lower()
    if SCHEMES.get(scheme, "http") == "http" and not is_blob_url(uri):
        raise UsageError(
            f"a checkpoint cannot be written to {scheme}://: give a directory, or an s3://, gs:// or az:// prefix"
        )
    location = parse_location(uri)
    return location if location.key.endswith("/") or not location.key else location.at(location.key + "/")


def _open_store(location: Location, storage_options: Mapping[str, object] | None) -> OpenContainer:
    options = parse_storage_options(storage_options, location.kind)
    if location.kind == "az":
        options = complete_azure_options(options)
    return open_container(
        Container(location.kind, location.container, location.root, location.account, location.endpoint, options)
    )


def _with_patience(store: Store) -> Store:
    """The same store with longer timeouts."""
    kind: Any = type(store)
    patience = {"read_timeout": timedelta(seconds=_ANSWER_S), "timeout": timedelta(seconds=_WHOLE_REQUEST_S)}
    again: Store = kind(
        config=store.config,
        client_options={**(store.client_options or {}), **patience},
        retry_config=store.retry_config,
        credential_provider=store.credential_provider,
    )
    return again


def _add_sentence(error: SlipstreamError, text: str) -> None:
    error.message = f"{error.message.rstrip('.')}. {text[0].upper()}{text[1:]}"
    error.args = (error.message,)
