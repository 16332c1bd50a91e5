"""The places that slipstream's own sources are tried on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, urlsplit

from slipstream.testing.nginx import Nginx
from slipstream.testing.range_server import RangeServer


class FilePlace:
    """A directory."""

    storage_options = None
    endpoint = None

    def __init__(self, root: Path) -> None:
        self._root = root

    def uri(self, key: str) -> str:
        return os.path.join(self._root, key)

    def put(self, key: str, data: bytes) -> None:
        """As downloads do it: the file appears whole, in place of the old one."""
        path = self._root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        arriving = path.with_name(path.name + ".partial")
        arriving.write_bytes(data)
        arriving.rename(path)

    def missing_container_uri(self) -> str:
        return os.fspath(self._root / "no-such-directory" / "model")


class BucketServer(Protocol):
    """What the servers of object stores have in common."""

    @property
    def storage_options(self) -> dict[str, str]: ...

    @property
    def port(self) -> int: ...

    @property
    def scheme(self) -> str: ...

    def create_bucket(self, bucket: str) -> None: ...

    def upload(self, source: Path | bytes, bucket: str, key: str) -> None: ...


class BucketPlace:
    """A bucket of an object store."""

    def __init__(self, scheme: str, server: BucketServer, bucket: str = "contract") -> None:
        self._scheme = scheme
        self._server = server
        self._bucket = bucket
        server.create_bucket(bucket)

    @property
    def storage_options(self) -> Mapping[str, object]:
        return self._server.storage_options

    @property
    def endpoint(self) -> str:
        return f"{self._server.scheme}://127.0.0.1:{self._server.port}"

    def uri(self, key: str) -> str:
        return f"{self._scheme}://{self._bucket}/{key}"

    def put(self, key: str, data: bytes) -> None:
        self._server.upload(data, self._bucket, key)

    def missing_container_uri(self) -> str:
        return f"{self._scheme}://no-such-container/model"


class NginxPlace:
    """A web server over a directory. Its ETags are made of a file's size and time in seconds."""

    def __init__(self, server: Nginx) -> None:
        self._server = server
        self._clock = count(1_700_000_000)
        self.storage_options = server.http_options
        self.endpoint = server.endpoint
        server.create_bucket("contract")

    def uri(self, key: str) -> str:
        return self._server.url(f"contract/{key}")

    def put(self, key: str, data: bytes) -> None:
        """Each blob in a later second than the one before."""
        self._server.upload(data, "contract", key)
        second = next(self._clock)
        os.utime(self._server.root / "contract" / key, (second, second))


class RangeServerPlace:
    """The range server of slipstream.testing, which counts what it sends."""

    storage_options = None

    def __init__(self, server: RangeServer) -> None:
        self._server = server
        parts = urlsplit(server.url(""))
        self.endpoint = f"{parts.scheme}://{parts.netloc}"

    def uri(self, key: str) -> str:
        return f"{self.endpoint}/{quote(key)}"

    def put(self, key: str, data: bytes) -> None:
        self._server.put(key, data)

    def count_sent(self) -> int:
        return sum(request.body_bytes for request in self._server.requests)
