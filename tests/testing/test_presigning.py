"""URLs of what is in an object store: any HTTP client can read with them, and nobody without."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import pytest

from slipstream.errors import UsageError
from slipstream.testing.azurite import Azurite
from slipstream.testing.presigning import presign
from slipstream.testing.seaweedfs import SeaweedFS
from slipstream.testing.synthetic import write_checkpoint
from slipstream.testing.uploading import Upload, upload_checkpoint

BUCKET = "presigned"


@pytest.fixture(params=["s3", "az"])
def place(request: pytest.FixtureRequest) -> tuple[str, SeaweedFS | Azurite]:
    """A prefix with a checkpoint in it, and its server."""
    server: SeaweedFS | Azurite = request.getfixturevalue({"s3": "seaweedfs", "az": "azurite"}[request.param])
    server.create_bucket(BUCKET)
    uri = f"{request.param}://{BUCKET}/a model/"
    upload_checkpoint("llama-tiny", uri, storage_options=server.storage_options, force=True)
    return uri, server


def test_any_client_gets_ranges(place: tuple[str, SeaweedFS | Azurite], tmp_path: Path) -> None:
    """A plain GET of a range gives the bytes of the file; without the query it is refused."""
    uri, server = place
    written = write_checkpoint("llama-tiny", tmp_path)
    (url,) = presign([f"{uri}model.safetensors"], server.storage_options)
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Range": "bytes=8-107"})) as answer:
        assert answer.status == 206
        assert answer.read() == written.files[0].read_bytes()[8:108]
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url.partition("?")[0])
    assert refused.value.code in (401, 403, 404)
    refused.value.close()


def test_what_takes_a_header_has_no_url(place: tuple[str, SeaweedFS | Azurite]) -> None:
    """A store that is reached with a header of the user's is refused, since a URL cannot carry it."""
    uri, server = place
    with pytest.raises(UsageError, match="takes a header"):
        presign([f"{uri}model.safetensors"], {**server.storage_options, "headers": {"X-Team": "models"}})


def test_an_upload_knows_what_was_there(place: tuple[str, SeaweedFS | Azurite], tmp_path: Path) -> None:
    """What lies under a prefix is there to be asked, with sizes, before anything is written."""
    uri, server = place
    written = write_checkpoint("llama-tiny", tmp_path)
    with Upload(uri, server.storage_options, force=True) as upload:
        assert upload.found["model.safetensors"] == written.files[0].stat().st_size
    with Upload(f"{uri}elsewhere/", server.storage_options) as upload:
        assert upload.found == {}
