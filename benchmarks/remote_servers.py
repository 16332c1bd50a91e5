"""The servers on loopback that a model is streamed from, each with what a client must know to reach it.

Server.begin(round) -> Address        before each sample
Server.end() -> notes                 after it: what the server saw
"""

from __future__ import annotations

import os
import tempfile
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contenders import Job
from page_cache import make_warm
from slipstream.testing.certificates import CertificateAuthority
from slipstream.testing.nginx import Nginx
from slipstream.testing.range_server import Faults, RangeServer
from slipstream.testing.seaweedfs import SeaweedFS

BUCKET = "models"
_UPLOAD_PART_BYTES = 16 << 20
_UPLOADS_AT_ONCE = 4  # SeaweedFS takes 60 to 160 MB/s, by one upload or by many


@dataclass(frozen=True)
class Address:
    """Where a model's files are served, for each kind of client.

    Attributes:
        uris: for clients that know stores.
        urls: for those that know only HTTP.
        storage_options: what slipstream is given.
        environment: the same for Run:ai, and for whoever reads AWS_ variables.
    """

    uris: tuple[str, ...]
    urls: tuple[str, ...]
    storage_options: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ground:
    """What servers are started on.

    Attributes:
        model: a directory of safetensors files, or one such file.
        scratch: a folder for what is needed only while they run.
        data: a folder for what the next run can use again.
        report: shown how an upload goes: bytes so far, bytes in all.
    """

    model: Path
    scratch: Path
    data: Path
    report: Callable[[int, int], None]

    @property
    def files(self) -> tuple[Path, ...]:
        """The model's files."""
        return Job(self.model).files

    def served(self) -> Path:
        """A folder in which the folder `BUCKET` has the model's files."""
        root = self.scratch / "served"
        (root / BUCKET).mkdir(parents=True, exist_ok=True)
        for file in self.model.iterdir() if self.model.is_dir() else (self.model,):
            link = root / BUCKET / file.name
            if not link.is_symlink():
                link.symlink_to(file.absolute())
        return root


class ModelServer(ABC):
    """Serves a model from construction until `close`."""

    @abstractmethod
    def begin(self, round_: int) -> Address:
        """Makes it ready for one sample."""

    def end(self) -> dict[str, Any]:
        """What it saw of the sample."""
        return {}

    @abstractmethod
    def close(self) -> None:
        """Ends it."""


class NginxServer(ModelServer):
    """nginx with sendfile, from the page cache: the fastest that is at hand. For S3 clients too."""

    def __init__(self, ground: Ground, *, tls: bool = False, limit_rate: str | None = None) -> None:
        authority = None
        if tls:
            authority = CertificateAuthority(Path(tempfile.mkdtemp(prefix="certificates-", dir=ground.scratch)))
        self._files = ground.files
        self._server = Nginx(
            ground.served(), tls=authority.issue() if authority else None, limit_rate=limit_rate,
            workers=max(2, (os.cpu_count() or 1) // 2),
        )  # fmt: skip

    def begin(self, round_: int) -> Address:
        """See ModelServer."""
        make_warm(self._files)
        options = self._server.storage_options
        keys = [f"{BUCKET}/{file.name}" for file in self._files]
        return Address(
            tuple(f"s3://{key}" for key in keys), tuple(map(self._server.url, keys)), options, aws_variables(options)
        )

    def close(self) -> None:
        """See ModelServer."""
        self._server.close()


class SeaweedServer(ModelServer):
    """A real S3 server, with its data on disk: uploaded once, and kept for the next run."""

    def __init__(self, ground: Ground) -> None:
        self._model = ground.model.name if ground.model.is_dir() else ground.model.stem
        self._data = ground.data / f"seaweedfs-{self._model}"
        self._files = ground.files
        self._server = SeaweedFS(data=self._data)
        try:
            self._server.create_bucket(BUCKET)
            self.add(self._model, self._files, ground.report)
        except BaseException:
            self.close()
            raise

    def add(
        self, model: str, files: Sequence[Path], report: Callable[[int, int], None] = lambda sent, total: None
    ) -> tuple[str, ...]:
        """Uploads files under a model's name, unless they are there; returns their URIs. For `report` see `upload`."""
        keys = {f"{model}/{file.name}": file for file in files}
        upload(self._server.storage_options, BUCKET, keys, report)
        return tuple(f"s3://{BUCKET}/{key}" for key in keys)

    def begin(self, round_: int) -> Address:
        """See ModelServer."""
        make_warm(sorted(self._data.glob("*.dat")))
        options = self._server.storage_options
        uris = tuple(f"s3://{BUCKET}/{self._model}/{file.name}" for file in self._files)
        return Address(uris, (), options, aws_variables(options))

    def close(self) -> None:
        """See ModelServer."""
        self._server.close()


class FaultyServer(ModelServer):
    """The test suite's own range server, with faults. Another process, and other luck, for every sample."""

    def __init__(self, ground: Ground, faults: Faults, *, index: str | None = None) -> None:
        """`index` is the name of a file that stands for all."""
        self._root = ground.served()
        self._files = ground.files
        self._names = [file.name for file in self._files] if index is None else [index]
        self._faults = faults
        self._server: RangeServer | None = None

    def begin(self, round_: int) -> Address:
        """See ModelServer."""
        make_warm(self._files)
        self.close()
        self._server = RangeServer(self._root, seed=round_)
        self._server.set_faults(self._faults)
        urls = tuple(self._server.url(f"{BUCKET}/{name}") for name in self._names)
        return Address(urls, urls)

    def end(self) -> dict[str, Any]:
        """See ModelServer."""
        assert self._server is not None
        requests = self._server.requests
        struck = Counter(fault for request in requests for fault in request.faults)
        return {"served": len(requests), "accepted": self._server.connections, "struck": dict(struck)}

    def close(self) -> None:
        """See ModelServer."""
        if self._server is not None:
            self._server.close()
            self._server = None


def aws_variables(options: Mapping[str, str]) -> dict[str, str]:
    """The environment in which S3 clients find a server of `slipstream.testing`."""
    variables = {
        "AWS_ENDPOINT_URL": options["endpoint"],
        "AWS_ACCESS_KEY_ID": options["access_key_id"],
        "AWS_SECRET_ACCESS_KEY": options["secret_access_key"],
        "AWS_REGION": options["region"],
        "AWS_DEFAULT_REGION": options["region"],
        "AWS_EC2_METADATA_DISABLED": "true",
        "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
    }
    if "ca_bundle" in options:
        variables["AWS_CA_BUNDLE"] = options["ca_bundle"]
    return variables


def upload(
    options: Mapping[str, str], bucket: str, files: Mapping[str, Path], report: Callable[[int, int], None]
) -> None:
    """Puts files into a bucket, those that are not there already.

    Args:
        options: as a server of `slipstream.testing` gives them.
        bucket: which must be there.
        files: by the key that each is stored under.
        report: called a few times a second with the bytes sent and the bytes in all, in this thread.
    """
    import obstore
    from obstore.store import S3Store

    store = S3Store(
        bucket,
        endpoint=options["endpoint"],
        access_key_id=options["access_key_id"],
        secret_access_key=options["secret_access_key"],
        region=options["region"],
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )
    stored = {found["path"]: found["size"] for page in obstore.list(store) for found in page}
    missing = {key: file for key, file in files.items() if stored.get(key) != file.stat().st_size}
    total, sent = sum(file.stat().st_size for file in missing.values()), 0
    failures: list[BaseException] = []

    def pieces(file: Path) -> Iterator[bytes]:
        nonlocal sent
        with file.open("rb") as source:
            while piece := source.read(_UPLOAD_PART_BYTES):
                yield piece
                sent += len(piece)

    def put() -> None:
        try:
            for key, file in missing.items():
                obstore.put(store, key, pieces(file), chunk_size=_UPLOAD_PART_BYTES, max_concurrency=_UPLOADS_AT_ONCE)
        except BaseException as error:
            failures.append(error)

    worker = threading.Thread(target=put, name="upload", daemon=True)
    worker.start()
    while worker.is_alive() and missing:
        report(sent, total)
        worker.join(0.2)
    if failures:
        raise failures[0]
    if missing:
        report(total, total)
