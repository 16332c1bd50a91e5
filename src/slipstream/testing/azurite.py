"""Azurite, Microsoft's own emulator of Azure Blob Storage. Needs Node.js with the npm package azurite.

    with Azurite() as server:
        server.create_bucket("models")
        server.upload(Path("model.safetensors"), "models", "llama/model.safetensors")
        slipstream.stream("az://models/llama", **server.storage_options)

It checks shared keys and signatures, and answers a wrong If-Match with 412, a range with 206. The test's own client is
the package azure-storage-blob.
"""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from slipstream.testing.servers import PROBE_TIMEOUT_S, Launch, Server, find_program

if TYPE_CHECKING:
    from azure.storage.blob import BlobServiceClient

AZURITE_VARIABLE = "AZURITE_BLOB_COMMAND"
DEFAULT_PROGRAM = Path(".venv/node/node_modules/.bin/azurite-blob")


class Azurite(Server):
    """Azure Blob Storage on loopback, in memory: `stop` forgets what was stored. See `Server` for the rest.

    Attributes:
        account_name: its one storage account, the first folder of every path.
        account_key: that account's key, in base64; another one for every server.
    """

    name = "azurite"
    account_name = "slipstreamtests"

    def __init__(self, *, directory: Path | None = None) -> None:
        """Starts the server, which takes about 1 s.

        Args:
            directory: where the folder with its log is made.

        Raises:
            ServerError: it did not come up.
            FileNotFoundError: there is no Azurite; see `why_unavailable`.
        """
        self.account_key = base64.b64encode(secrets.token_bytes(64)).decode()
        super().__init__(directory)

    @property
    def endpoint(self) -> str:
        """The account's URL, without a slash at its end."""
        return f"{super().endpoint}/{self.account_name}"

    @property
    def storage_options(self) -> dict[str, str]:
        """What a client needs to reach the server."""
        return {"account_name": self.account_name, "account_key": self.account_key, "endpoint": self.endpoint}

    def create_bucket(self, bucket: str) -> None:
        """Makes a container, unless it is there."""
        from azure.core.exceptions import ResourceExistsError

        with self._client() as client, suppress(ResourceExistsError):
            client.create_container(bucket)

    def upload(self, source: Path | bytes, bucket: str, key: str) -> None:
        """Stores a file or these bytes as a blob."""
        with self._client() as client, client.get_blob_client(bucket, key) as blob:
            if isinstance(source, Path):
                with source.open("rb") as file:
                    blob.upload_blob(file, overwrite=True)
            else:
                blob.upload_blob(source, overwrite=True)

    def delete(self, bucket: str, key: str) -> None:
        """Removes a blob, if it is there."""
        from azure.core.exceptions import ResourceNotFoundError

        with self._client() as client, suppress(ResourceNotFoundError):
            client.get_container_client(bucket).delete_blob(key)

    def launch(self, ports: Sequence[int]) -> Launch:
        program = _find_azurite()
        if program is None:
            raise FileNotFoundError(why_unavailable())
        options = f"--blobHost 127.0.0.1 --blobPort {ports[0]} --inMemoryPersistence --skipApiVersionCheck"
        return Launch(
            [program, *options.split(), "--disableTelemetry", "--silent"],
            {"AZURITE_ACCOUNTS": f"{self.account_name}:{self.account_key}"},
        )

    def answers(self) -> bool:
        from azure.core.exceptions import AzureError

        try:
            with self._client() as client:
                # With the key that no other server has. The limits are for this one call.
                client.get_service_properties(
                    retry_total=0, connection_timeout=PROBE_TIMEOUT_S, read_timeout=PROBE_TIMEOUT_S
                )
        except AzureError as error:
            raise ConnectionError(str(error)) from error
        return True

    def _client(self) -> BlobServiceClient:
        from azure.storage.blob import BlobServiceClient

        return BlobServiceClient(self.endpoint, credential=self.account_key)


def why_unavailable() -> str | None:
    """Why Azurite cannot be started here, in words; None where it can."""
    if find_program("node") is None:
        return "there is no program node: Azurite needs Node.js"
    if _find_azurite() is None:
        return (
            f"there is no Azurite at {DEFAULT_PROGRAM.absolute()}, nor azurite-blob on the PATH: `make azurite`, or "
            f"`npm install azurite` elsewhere and its node_modules/.bin/azurite-blob in {AZURITE_VARIABLE}"
        )
    return None


def _find_azurite() -> Path | None:
    named = os.environ.get(AZURITE_VARIABLE)
    program = Path(named) if named else DEFAULT_PROGRAM.absolute()
    if program.exists():
        return program.absolute()
    return None if named else find_program("azurite-blob")
