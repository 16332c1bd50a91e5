"""A bucket of S3, Google Cloud Storage or Azure Blob Storage, or of a server that speaks as one of them.

s3://bucket/prefix/ ─┬─ llama-3-8b/model.safetensors              uploaded once, found by the next run
                     └─ llama-3-8b-tensorizer/model.tensors       the same in tensorizer's format
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from slipstream.bench.machine import received_bytes
from slipstream.bench.records import StorageFacts, StorageKind
from slipstream.bench.storages.base import Counters, PageCache, PlacedModel, Report, StorageUnavailableError
from slipstream.bench.storages.local_files import model_slug
from slipstream.errors import SlipstreamError
from slipstream.testing.destination import NewFile, Part
from slipstream.testing.presigning import presign
from slipstream.testing.uploading import Upload

if TYPE_CHECKING:
    from slipstream.bench.models import Model

REAL_STORE_PAUSE_S = (
    120.0  # between samples, as in the published benchmark: the store shall not have the last one cached
)
_PART_BYTES = 8 << 20
_CLOUD_VARIABLES = ("AWS_", "AZURE_", "GOOGLE_", "GCE_")


class ObjectStore:
    """A prefix in an object store. See Storage."""

    kind: StorageKind = "object-store"

    def __init__(
        self,
        name: str,
        uri: str,
        *,
        tensorizer_uri: str | None = None,
        storage_options: Mapping[str, str] | None = None,
        pause_s: float = REAL_STORE_PAUSE_S,
        inherit: bool = True,
    ) -> None:
        """
        Args:
            name: as in records.
            uri: of the prefix; the bucket must be there.
            tensorizer_uri: another one for the copy in tensorizer's format.
            storage_options: how the store is reached, as in `slipstream.stream`.
            pause_s: before each sample.
            inherit: whether samples get this process's own variables of clouds.
        """
        self.name = name
        self.pause_s = pause_s
        self._uri = uri.rstrip("/") + "/"
        self._tensorizer_prefix = tensorizer_uri.rstrip("/") + "/" if tensorizer_uri else self._uri
        self._storage_options = dict(storage_options or {})
        self._inherit = inherit
        self._model: Model | None = None
        self._uris: tuple[str, ...] = ()
        self._tensorizer_uri: str | None = None
        self._loopback = False

    def __repr__(self) -> str:
        return f"<ObjectStore {self.name}: {self._uri}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def place(self, model: Model, report: Report, *, tensorizer_file: Path | None = None) -> None:
        """See Storage.

        Raises:
            StorageUnavailableError: it cannot be written there.
        """
        # Under the names of synthetic checkpoints, which an upload knows as its own and may replace.
        count = len(model.files)
        names = [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
        files = dict(zip(names if count > 1 else ["model.safetensors"], model.files, strict=True))
        self._uris = self._upload(f"{self._uri}{model_slug(model)}/", files, report)
        if tensorizer_file is not None:
            copy = {"model.tensors": tensorizer_file}
            prefix = f"{self._tensorizer_prefix}{model_slug(model)}-tensorizer/"
            (self._tensorizer_uri,) = self._upload(prefix, copy, report)
        self._model = model
        self._loopback = _is_loopback(presign(self._uris[:1], self._storage_options)[0])

    def facts(self) -> StorageFacts:
        """See Storage."""
        return StorageFacts(name=self.name, kind=self.kind, emulated=False, uri=self._uri)

    def begin(self, round_: int) -> PlacedModel:
        """See Storage. The URLs are good for an hour."""
        assert self._model is not None, "no model has been placed"
        inherited = {name: value for name, value in os.environ.items() if name.startswith(_CLOUD_VARIABLES)}
        return PlacedModel(
            model=self._model,
            uris=self._uris,
            urls=presign(self._uris, self._storage_options),
            tensorizer_uri=self._tensorizer_uri,
            storage_options=self._storage_options,
            environment=(inherited if self._inherit else {}) | aws_variables(self._storage_options),
        )

    def prepare(self, pid: int, *, page_cache: PageCache = "cold", tensorizer: bool = False) -> None:
        """See Storage. Nothing of a store is in this machine's page cache."""

    def counters(self) -> Counters:
        """See Storage. What others receive from the network counts too."""
        return Counters(network_received_bytes=received_bytes(loopback=self._loopback))

    def end(self) -> Mapping[str, object]:
        """See Storage."""
        return {}

    def _upload(self, prefix: str, files: Mapping[str, Path], report: Report) -> tuple[str, ...]:
        """Uploads files under these names, unless they are there by their sizes; returns their URIs."""
        try:
            with Upload(prefix, self._storage_options, force=True) as upload:
                if any(upload.found.get(name) != file.stat().st_size for name, file in files.items()):
                    _send(upload, files, prefix, report)
        except SlipstreamError as error:
            raise StorageUnavailableError(f"the model cannot be placed at {prefix}: {error}") from error
        return tuple(prefix + name for name in files)


def aws_variables(options: Mapping[str, str]) -> dict[str, str]:
    """The environment in which S3 clients find the store that slipstream is given these options for."""
    variables: dict[str, str] = {}
    for option, names in {
        "endpoint": ("AWS_ENDPOINT_URL",),
        "access_key_id": ("AWS_ACCESS_KEY_ID",),
        "secret_access_key": ("AWS_SECRET_ACCESS_KEY",),
        "session_token": ("AWS_SESSION_TOKEN",),
        "region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
        "ca_bundle": ("AWS_CA_BUNDLE",),
    }.items():
        if option in options:
            variables |= dict.fromkeys(names, options[option])
    if "endpoint" in options:
        variables |= {"AWS_EC2_METADATA_DISABLED": "true", "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0"}
    return variables


def _send(upload: Upload, files: Mapping[str, Path], prefix: str, report: Report) -> None:
    news = [NewFile(name, tuple(_parts(file))) for name, file in files.items()]
    total, sent = sum(file.nbytes for file in news), 0

    def show(nbytes: int) -> None:
        nonlocal sent
        sent += nbytes
        report(f"uploading to {prefix}", sent, total)

    upload.write(news, show)
    upload.commit()


def _parts(file: Path) -> Sequence[Part]:
    size = file.stat().st_size
    return [
        Part(start, min(_PART_BYTES, size - start), partial(_read, file, start, min(_PART_BYTES, size - start)))
        for start in range(0, size, _PART_BYTES)
    ]


def _read(file: Path, start: int, nbytes: int) -> bytes:
    with file.open("rb", buffering=0) as source:
        source.seek(start)
        data = source.read(nbytes)
    if len(data) != nbytes:
        raise OSError(f"{file} has become shorter")
    return data


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
