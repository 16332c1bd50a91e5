"""S3 requests signed by hand, for putting what a test needs into a server without the client under test.

AWS Signature Version 4, with the payload unsigned:
https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlsplit

_UNSIGNED = "UNSIGNED-PAYLOAD"
_SEND_BYTES = 1 << 20


class Answer(NamedTuple):
    """A server's answer, its body read."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


class SignedS3:
    """One S3 endpoint with one pair of keys. Each call makes a connection of its own; threads may share the object."""

    def __init__(
        self,
        endpoint: str,
        access_key_id: str,
        secret_access_key: str,
        *,
        region: str = "us-east-1",
        ca_bundle: Path | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        self._url = urlsplit(endpoint)
        self._access_key_id = access_key_id
        self._secret_access_key = secret_access_key
        self._region = region
        self._timeout_s = timeout_s
        self._tls = ssl.create_default_context(cafile=str(ca_bundle) if ca_bundle else None)

    def request(
        self,
        method: str,
        bucket: str,
        key: str = "",
        *,
        query: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        body: bytes | Path = b"",
    ) -> Answer:
        """Sends one signed request, path-style.

        Args:
            method: GET, PUT and so on.
            bucket: the bucket's name.
            key: the object's key; empty for the bucket itself.
            query: names and values, not yet encoded.
            headers: sent as they are, unsigned.
            body: what to send. A file is sent as it is read.

        Returns:
            The answer, whatever its status.
        """
        path = quote(f"/{bucket}/{key}" if key else f"/{bucket}")
        encoded = "&".join(
            f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in sorted((query or {}).items())
        )
        signed = self._sign(method, path, encoded)
        length = body.stat().st_size if isinstance(body, Path) else len(body)
        connection = self._connect()
        try:
            sent = {**(headers or {}), **signed, "Content-Length": str(length)}
            if isinstance(body, Path):
                with body.open("rb") as file:
                    connection.request(method, f"{path}?{encoded}", body=file, headers=sent)
            else:
                connection.request(method, f"{path}?{encoded}", body=body, headers=sent)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        assert self._url.hostname is not None
        if self._url.scheme == "https":
            return http.client.HTTPSConnection(
                self._url.hostname, self._url.port, context=self._tls, timeout=self._timeout_s, blocksize=_SEND_BYTES
            )
        return http.client.HTTPConnection(
            self._url.hostname, self._url.port, timeout=self._timeout_s, blocksize=_SEND_BYTES
        )

    def _sign(self, method: str, path: str, query: str) -> dict[str, str]:
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        day = moment[:8]
        scope = f"{day}/{self._region}/s3/aws4_request"
        headers = {"host": self._url.netloc, "x-amz-content-sha256": _UNSIGNED, "x-amz-date": moment}
        names = ";".join(headers)
        listed = "".join(f"{name}:{value}\n" for name, value in headers.items())
        canonical = "\n".join([method, path, query, listed, names, _UNSIGNED])
        text = "\n".join(["AWS4-HMAC-SHA256", moment, scope, hashlib.sha256(canonical.encode()).hexdigest()])
        key = b"AWS4" + self._secret_access_key.encode()
        for part in (day, self._region, "s3", "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        credential = f"{self._access_key_id}/{scope}"
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}"
        )
        return headers
