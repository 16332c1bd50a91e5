"""Every refusal and every broken network has one clear text: what, where, the store's own words, and what to check."""

from __future__ import annotations

import pickle
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from slipstream.errors import AccessDeniedError, BlobNotFoundError, ReadError, SlipstreamError, UsageError
from slipstream.testing.azurite import Azurite
from slipstream.testing.seaweedfs import SeaweedFS
from slipstream.transport.access import StoreKind
from tests.object_stores.opening import open_source
from tests.object_stores.scripted_server import Said, ScriptedServer, s3_refusal

KEYS = {"access_key_id": "AKIAIOSFODNN7EXAMPLE", "secret_access_key": "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"}


def failure(kind: StoreKind, options: Mapping[str, object], uri: str) -> SlipstreamError:
    """The error of a listing, of which nothing secret and nothing of obstore is left."""
    with pytest.raises(SlipstreamError) as caught:
        open_source(kind, options).list_blobs(uri)
    error = caught.value
    chain: BaseException | None = error
    while chain is not None:
        assert not type(chain).__module__.startswith("obstore")
        assert KEYS["secret_access_key"] not in str(chain)
        assert "X-Amz-Signature" not in str(chain)
        chain = chain.__cause__ or chain.__context__
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    return error


@pytest.mark.parametrize("uri", ["s3://errors/dir/", "s3://errors/x.safetensors"])
@pytest.mark.parametrize(
    ("change", "made", "says"),
    [
        ({"access_key_id": "AKIAUNKNOWN"}, AccessDeniedError, ["InvalidAccessKeyId", "check the access key id"]),
        (
            {"secret_access_key": "wrong"},
            AccessDeniedError,
            ["SignatureDoesNotMatch", "secret access key from storage"],
        ),
        ({"anon": True}, AccessDeniedError, ["AccessDenied", "no credentials were sent"]),
    ],
)
def test_a_real_store_s_refusals(
    seaweedfs: SeaweedFS, change: dict[str, object], made: type[SlipstreamError], says: list[str], uri: str
) -> None:
    seaweedfs.create_bucket("errors")
    error = failure("s3", {**seaweedfs.storage_options, **change}, uri)
    assert type(error) is made
    assert error.uri == uri
    assert (error.status, error.endpoint) == (403, seaweedfs.endpoint)
    for words in ("HTTP 403", seaweedfs.endpoint, *says):
        assert words.lower() in str(error).lower()
    assert seaweedfs.secret_access_key not in str(error)


@pytest.mark.parametrize("uri", ["s3://nobucket/dir/", "s3://nobucket/x.safetensors"])
def test_a_missing_bucket(seaweedfs: SeaweedFS, uri: str) -> None:
    error = failure("s3", seaweedfs.storage_options, uri)
    assert type(error) is BlobNotFoundError
    assert "there is no such bucket, HTTP 404 NoSuchBucket" in str(error)
    assert "Check the bucket's name nobucket" in str(error)


@pytest.mark.parametrize(
    ("change", "uri", "made", "says"),
    [
        ({}, "az://nocontainer/dir/", BlobNotFoundError, "there is no such container, HTTP 404 ContainerNotFound"),
        ({"account_key": "YW5vdGhlcg=="}, "az://errors/dir/", AccessDeniedError, "HTTP 403 AuthorizationFailure"),
        ({"account_key": "not base64!"}, "az://errors/dir/", UsageError, "is not base64"),
        ({"anon": True}, "az://errors/dir/", AccessDeniedError, "only public data is read"),
        ({}, "az://errors/x.safetensors", BlobNotFoundError, "it does not exist, HTTP 404 BlobNotFound"),
    ],
)
def test_azure_s_refusals(
    azurite: Azurite, change: dict[str, object], uri: str, made: type[SlipstreamError], says: str
) -> None:
    azurite.create_bucket("errors")
    error = failure("az", {**azurite.storage_options, **change}, uri)
    assert type(error) is made
    assert says in str(error)
    assert azurite.storage_options["account_key"] not in str(error)


@pytest.mark.parametrize(
    ("said", "made", "says"),
    [
        (
            Said(400, s3_refusal("ExpiredToken", "The provided token has expired.")),
            AccessDeniedError,
            ["the credentials have expired", "ExpiredToken", "Renew the credentials from storage_options"],
        ),
        (
            Said(403, s3_refusal("RequestTimeTooSkewed", "The difference is too large.")),
            AccessDeniedError,
            ["this computer's clock is wrong", "NTP"],
        ),
        (
            Said(
                400,
                s3_refusal(
                    "AuthorizationHeaderMalformed",
                    "The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-west-1'",
                    "<Region>eu-west-1</Region>",
                ),
            ),
            UsageError,
            ["the bucket is in another region", 'Set the region to "eu-west-1"'],
        ),
        (
            Said(301, s3_refusal("PermanentRedirect", "Use the endpoint."), {"x-amz-bucket-region": "ap-south-1"}),
            UsageError,
            ["the bucket is in another region", 'Set the region to "ap-south-1"'],
        ),
        (
            Said(503, s3_refusal("SlowDown", "Please reduce your request rate.")),
            ReadError,
            ["HTTP 503 SlowDown: Please reduce", "4 attempts in"],
        ),
        (
            Said(403, s3_refusal("Odd", f"See https://h/x?X-Amz-Signature=ab and {KEYS['secret_access_key']}")),
            AccessDeniedError,
            ["HTTP 403 Odd: See https://h/x?(redacted) and ***"],
        ),
        (Said(418, b"<html>teapot</html>"), ReadError, ["the store refused, HTTP 418"]),
    ],
)  # fmt: skip
def test_refusals_of_amazon_s(said: Said, made: type[SlipstreamError], says: list[str]) -> None:
    with ScriptedServer(said) as server:
        error = failure("s3", {**KEYS, "endpoint": server.url}, "s3://bucket/dir/")
    assert type(error) is made
    for words in says:
        assert words in str(error)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_refused_connection_is_given_up_after_a_few_attempts() -> None:
    error = failure("s3", {**KEYS, "endpoint": f"http://127.0.0.1:{closed_port()}"}, "s3://bucket/dir/")
    assert type(error) is ReadError
    assert error.attempts == 4
    assert "the connection was refused (endpoint http://127.0.0.1:" in str(error)


def test_a_host_that_is_not_known() -> None:
    error = failure("s3", {**KEYS, "endpoint": "http://nowhere.invalid"}, "s3://bucket/dir/")
    assert "its host name cannot be resolved" in str(error)


def test_an_authority_that_is_not_known(seaweedfs_tls: SeaweedFS) -> None:
    options = {name: value for name, value in seaweedfs_tls.storage_options.items() if name != "ca_bundle"}
    error = failure("s3", options, "s3://bucket/dir/")
    assert "its certificate cannot be verified" in str(error)
    assert "ca_bundle" in str(error)
    assert "AWS_CA_BUNDLE" in str(error)


def test_tls_asked_of_a_plain_port(seaweedfs: SeaweedFS) -> None:
    options = {**seaweedfs.storage_options, "endpoint": seaweedfs.endpoint.replace("http:", "https:")}
    assert "write http:// in the endpoint" in str(failure("s3", options, "s3://bucket/dir/"))


def test_a_silent_server_is_given_up_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slipstream.sources.stores._SILENCE_S", 0.2)
    monkeypatch.setattr("slipstream.sources.stores._TRYING_S", 0.2)
    with ScriptedServer(Said(0)) as server:
        error = failure("s3", {**KEYS, "endpoint": server.url}, "s3://bucket/dir/")
    assert "it did not answer in time" in str(error)


def test_a_ca_bundle_that_is_none(tmp_path: Path) -> None:
    for path, says in ((tmp_path / "none.pem", "cannot be read: No such file"), (Path(__file__), "holds no PEM")):
        error = failure("s3", {**KEYS, "endpoint": "https://127.0.0.1:9", "ca_bundle": path}, "s3://bucket/dir/")
        assert says in str(error)


def test_an_endpoint_in_the_environment_that_is_no_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost:9000")
    assert "the endpoint in the environment is not a URL" in str(failure("s3", KEYS, "s3://bucket/dir/"))


def test_a_key_that_cannot_be_asked_for_does_not_hide_what_is_wrong(seaweedfs: SeaweedFS) -> None:
    seaweedfs.create_bucket("odd")
    seaweedfs.upload(b"x", "odd", "d/new\nline.txt")
    error = failure("s3", seaweedfs.storage_options, "s3://odd/d/")
    assert "there is a key that slipstream cannot ask for" in str(error)
