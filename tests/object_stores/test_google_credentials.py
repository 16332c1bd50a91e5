"""Google's identities: a key signs, everything else shows a token; found in the order of Google's own libraries."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from slipstream.errors import AccessDeniedError, MissingDependencyError, UsageError
from slipstream.sources.base import SigningRefusedError
from slipstream.testing.fake_gcs import FakeGcs
from slipstream.types import Blob
from tests.object_stores.opening import get_plainly, open_source
from tests.object_stores.scripted_server import Said, ScriptedServer

BUCKET = "google"
NAMES = ("plain.safetensors", "odd +#?%20ü.safetensors")


@pytest.fixture(autouse=True)
def no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def server(fake_gcs: FakeGcs) -> FakeGcs:
    fake_gcs.create_bucket(BUCKET)
    for name in NAMES:
        fake_gcs.upload(name.encode(), BUCKET, name)
    return fake_gcs


def test_a_service_account_signs(server: FakeGcs) -> None:
    key = json.loads(server.service_account.read_text())
    for options in ({"service_account": str(server.service_account)}, {"token": key}, {"service_account_key": key}):
        source = open_source("gs", options)
        blobs = {blob.uri: blob for blob in source.list_blobs(f"gs://{BUCKET}/").blobs}
        assert set(blobs) == {f"gs://{BUCKET}/{name}" for name in NAMES}
        grant = source.access(blobs[f"gs://{BUCKET}/plain.safetensors"]).grant()
        assert "X-Goog-Signature=" in grant.url
        assert get_plainly(grant, {"Range": "bytes=1-3"})[:2] == (206, b"lai")


def test_a_name_that_is_not_signed_rightly_is_read_by_the_store_s_own_client(server: FakeGcs) -> None:
    source = open_source("gs", server.storage_options)
    (blob,) = source.list_blobs(f"gs://{BUCKET}/odd*").blobs
    with pytest.raises(SigningRefusedError):
        source.access(blob).grant()
    assert source.read_range(blob, 0, 3) == b"odd"
    assert source.read_range_by_store(blob, 4, 9) == b"+#?%2"
    (named,) = source.list_blobs(blob.uri).blobs
    assert named == blob


@pytest.mark.parametrize("variable", ["GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT"])
def test_a_file_that_the_environment_names(server: FakeGcs, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, str(server.service_account))
    source = open_source("gs", {})
    assert len(source.list_blobs(f"gs://{BUCKET}/").blobs) == len(NAMES)
    assert "X-Goog-Signature=" in source.access(Blob(f"gs://{BUCKET}/plain.safetensors", 1)).grant().url


def test_an_emulator_that_the_environment_names(server: FakeGcs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.endpoint.removeprefix("http://"))
    source = open_source("gs", {})
    for blob in source.list_blobs(f"gs://{BUCKET}/").blobs:
        name = blob.uri.removeprefix(f"gs://{BUCKET}/")
        assert get_plainly(source.access(blob).grant(), {})[1] == name.encode()


def test_a_token_is_sent_as_it_is(server: FakeGcs) -> None:
    source = open_source("gs", {"token": "ya29.given", "endpoint": server.endpoint})
    blob = source.list_blobs(f"gs://{BUCKET}/plain.safetensors").blobs[0]
    grant = source.access(blob).grant()
    assert (grant.headers["Authorization"], grant.expires_at) == ("Bearer ya29.given", None)
    assert "?" not in grant.url
    assert "ya29" not in repr(grant)


def test_the_machine_s_own_token(monkeypatch: pytest.MonkeyPatch) -> None:
    token = Said(200, b'{"access_token": "ya29.machine", "expires_in": 3599, "token_type": "Bearer"}')
    with ScriptedServer(token) as server:
        monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{server.port}")
        access = open_source("gs", {}).access(Blob("gs://b/k", 1))
        grant = access.grant()
        asked = len(server.requests)
        assert access.grant() is grant
        assert len(server.requests) == asked
        assert server.headers["Metadata-Flavor"] == "Google"
    assert grant.headers["Authorization"] == "Bearer ya29.machine"
    assert grant.url == "https://storage.googleapis.com/b/k"
    assert grant.expires_at is not None


def external_account(tmp_path: Path, token_url: str) -> dict[str, object]:
    """A workload of another cloud, whose own token Google takes for one of its own."""
    (tmp_path / "token").write_text("SECRET-of-the-workload")
    return {
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": token_url,
        "credential_source": {"file": str(tmp_path / "token")},
    }


def test_an_external_account_gets_its_token_from_google_auth(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answer = Said(
        200,
        b'{"access_token": "ya29.external", "expires_in": 3599, "token_type": "Bearer", '
        b'"issued_token_type": "urn:ietf:params:oauth:token-type:access_token"}',
        {"Content-Type": "application/json"},
    )
    with ScriptedServer(answer) as server:
        (tmp_path / "adc.json").write_text(json.dumps(external_account(tmp_path, f"{server.url}/v1/token")))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "adc.json"))
        grant = open_source("gs", {}).access(Blob("gs://b/k", 1)).grant()
    assert grant.headers["Authorization"] == "Bearer ya29.external"
    assert grant.expires_at is not None


def test_an_external_account_that_is_refused(tmp_path: Path) -> None:
    refusal = Said(400, b'{"error": "invalid_grant"}', {"Content-Type": "application/json"})
    with ScriptedServer(refusal) as server:
        options = {"token": external_account(tmp_path, f"{server.url}/v1/token")}
        with pytest.raises(AccessDeniedError, match="gives no access token") as caught:
            open_source("gs", options).access(Blob("gs://b/k", 1)).grant()
        assert server.requests
    assert "SECRET" not in str(caught.value)
    assert caught.value.__context__ is None


def test_a_user_s_login_without_google_auth_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.auth", None)
    login = {"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r"}
    with pytest.raises(MissingDependencyError, match=r'pip install "slipstream\[gs\]"'):
        open_source("gs", {"token": login}).access(Blob("gs://b/k", 1)).grant()


def test_where_nothing_is_found_all_places_are_named() -> None:
    with pytest.raises(AccessDeniedError) as caught:
        open_source("gs", {}).list_blobs("gs://b/")
    for place in ("storage_options", "GOOGLE_APPLICATION_CREDENTIALS", "metadata service", "anonymous"):
        assert place in str(caught.value)


@pytest.mark.parametrize(("content", "says"), [(None, "cannot be read"), ("{", "not JSON"), ("[]", "not JSON")])
def test_a_credentials_file_that_is_none(tmp_path: Path, content: str | None, says: str) -> None:
    path = tmp_path / "key.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=says):
        open_source("gs", {"service_account": str(path)}).list_blobs("gs://b/")


def test_two_service_accounts_are_one_too_many(server: FakeGcs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(server.service_account))
    options = {"service_account_key": server.service_account.read_text()}
    with pytest.raises(UsageError, match="unset GOOGLE_SERVICE_ACCOUNT"):
        open_source("gs", options).list_blobs(f"gs://{BUCKET}/")
