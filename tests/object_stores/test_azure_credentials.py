"""Azure's accounts and identities: from options, a connection string, the environment, Entra ID."""

from __future__ import annotations

import json
import time
from typing import NamedTuple

import pytest

from slipstream.errors import AccessDeniedError, UsageError
from slipstream.sources.base import SigningRefusedError
from slipstream.testing.azurite import Azurite
from slipstream.types import Blob
from tests.object_stores.opening import get_plainly, open_source
from tests.object_stores.scripted_server import Said, ScriptedServer

BUCKET = "identities"


@pytest.fixture
def server(azurite: Azurite) -> Azurite:
    azurite.create_bucket(BUCKET)
    azurite.upload(b"0123456789", BUCKET, "x.safetensors")
    return azurite


@pytest.mark.parametrize("form", ["variables", "connection string"])
def test_the_environment_alone(server: Azurite, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = server.storage_options
    account, key, endpoint = options["account_name"], options["account_key"], options["endpoint"]
    if form == "variables":
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", account)
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", key)
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", endpoint)
    else:
        text = f"AccountName={account};AccountKey={key};BlobEndpoint={endpoint}"
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
    source = open_source("az", {})
    (blob,) = source.list_blobs(f"az://{BUCKET}/").blobs
    assert get_plainly(source.access(blob).grant(), {})[1] == b"0123456789"


def test_options_come_before_the_environment(server: Azurite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "another")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "YW5vdGhlcg==")
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "AccountName=third;AccountKey=YQ==")
    assert open_source("az", server.storage_options).list_blobs(f"az://{BUCKET}/").blobs


def test_an_account_is_needed() -> None:
    with pytest.raises(UsageError, match=r"does not say which storage account.*abfss://c@ACCOUNT"):
        open_source("az", {"account_key": "YQ=="}).list_blobs("az://c/")


def test_a_key_is_not_sent_to_another_account() -> None:
    options = {"account_name": "mine", "account_key": "YQ=="}
    with pytest.raises(UsageError, match="they would be sent to the wrong one"):
        open_source("az", options).access(Blob("abfss://c@theirs.dfs.core.windows.net/k", 1)).grant()


def test_a_given_token_is_sent_with_a_version() -> None:
    grant = open_source("az", {"token": "eyJ", "account_name": "acc"}).access(Blob("az://c/k x", 1)).grant()
    assert grant.url == "https://acc.blob.core.windows.net/c/k%20x"
    assert grant.headers["Authorization"] == "Bearer eyJ"
    assert grant.headers["x-ms-version"]


class Token(NamedTuple):
    token: str
    expires_on: int


def test_a_service_principal_shows_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    class Principal:
        def __init__(self, *arguments: object) -> None:
            assert arguments == ("t", "c", "s")

        def get_token(self, scope: str) -> Token:
            return Token("eyJprincipal", int(time.time()) + 3600)

    monkeypatch.setattr("azure.identity.ClientSecretCredential", Principal)
    options = {"account_name": "acc", "tenant_id": "t", "client_id": "c", "client_secret": "s"}
    grant = open_source("az", options).access(Blob("az://c/k", 1)).grant()
    assert grant.headers["Authorization"] == "Bearer eyJprincipal"
    assert grant.expires_at is not None


def test_a_service_principal_that_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from azure.core.exceptions import ClientAuthenticationError

    class Principal:
        def __init__(self, *arguments: object) -> None: ...

        def get_token(self, scope: str) -> Token:
            raise ClientAuthenticationError(message="AADSTS7000215: Invalid client secret SECRET provided")

    monkeypatch.setattr("azure.identity.ClientSecretCredential", Principal)
    options = {"account_name": "other", "tenant_id": "t", "client_id": "c", "client_secret": "s"}
    with pytest.raises(AccessDeniedError, match="AADSTS7000215") as caught:
        open_source("az", options).access(Blob("az://c/k", 1)).grant()
    assert "SECRET" not in str(caught.value)
    assert caught.value.__context__ is None


def test_an_identity_that_may_not_sign_reads_by_the_store_s_own_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """A managed identity without azure-identity: obstore keeps its token, and signing takes a further permission."""
    monkeypatch.setattr("slipstream.sources.azure_credentials.find_spec", lambda name: None)

    def answer(method: str, path: str) -> Said:
        if path.startswith("/identity"):
            token = {"access_token": "eyJ", "expires_in": "3599", "expires_on": "9999999999", "token_type": "Bearer"}
            return Said(200, json.dumps(token).encode(), {"Content-Type": "application/json"})
        if method == "POST":
            return Said(403, b"<Error><Code>AuthorizationPermissionMismatch</Code><Message>No.</Message></Error>")
        headers = {"ETag": '"e"', "Content-Range": "bytes 2-4/10", "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
        return Said(206, b"234", headers)

    with ScriptedServer(answer) as server:
        monkeypatch.setenv("AZURE_MSI_ENDPOINT", f"{server.url}/identity")
        monkeypatch.setenv("AZURE_IDENTITY_ENDPOINT", f"{server.url}/identity")
        source = open_source("az", {"account_name": "acc", "endpoint": f"{server.url}/acc"})
        blob = Blob("az://c/k", 10, '"e"')
        with pytest.raises(SigningRefusedError, match="AuthorizationPermissionMismatch"):
            source.access(blob).grant()
        assert source.read_range(blob, 2, 5) == b"234"


def test_where_nothing_is_found_all_places_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slipstream.sources.azure_credentials.find_spec", lambda name: None)
    monkeypatch.setattr("slipstream.sources.azure_credentials._metadata_answers", lambda: False)
    with pytest.raises(AccessDeniedError) as caught:
        open_source("az", {"account_name": "acc"}).list_blobs("az://c/")
    for place in ("storage_options", "AZURE_STORAGE_ACCOUNT_KEY", 'pip install "slipstream[az]"', "anonymous"):
        assert place in str(caught.value)
