"""Where S3 credentials come from: options, then the environment, then profiles, then the machine."""

from __future__ import annotations

import configparser
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from slipstream.errors import AccessDeniedError, MissingDependencyError, SlipstreamError, UsageError
from slipstream.sources.aws_credentials import find_aws_credentials, find_region
from slipstream.sources.credentials import Container, Credentials
from slipstream.sources.storage_options import parse_storage_options
from slipstream.testing.seaweedfs import SeaweedFS
from slipstream.types import Blob
from tests.object_stores.opening import get_plainly, open_source
from tests.object_stores.scripted_server import Said, ScriptedServer

BUCKET = "credentials"


@pytest.fixture(autouse=True)
def no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No profiles but those a test writes."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name))


def write_profile(path: Path, section: str, **settings: str) -> None:
    profiles = configparser.ConfigParser()
    profiles.read(path)
    profiles[section] = settings
    with path.open("w") as file:
        profiles.write(file)


def container(**options: object) -> Container:
    return Container("s3", BUCKET, f"s3://{BUCKET}/", None, None, parse_storage_options(options, "s3"))


def found_key(credentials: Credentials) -> str:
    assert credentials.provider is not None
    return str(credentials.provider()["access_key_id"])


def test_options_come_before_the_environment_and_the_environment_before_profiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"aws_secret_access_key": "s", "region": "eu-north-1"}
    write_profile(tmp_path / "AWS_SHARED_CREDENTIALS_FILE", "default", aws_access_key_id="default", **keys)
    write_profile(tmp_path / "AWS_SHARED_CREDENTIALS_FILE", "named", aws_access_key_id="named", **keys)
    write_profile(tmp_path / "AWS_CONFIG_FILE", "profile named", region="eu-north-1")

    assert found_key(find_aws_credentials(container())) == "default"
    monkeypatch.setenv("AWS_PROFILE", "named")
    named = find_aws_credentials(container())
    assert (found_key(named), named.found) == ("named", "the profile named")
    assert find_region(container(), named) == "eu-north-1"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session")
    from_environment = find_aws_credentials(container())
    assert found_key(from_environment) == "environment"
    assert from_environment.provider is not None
    assert from_environment.provider()["token"] == "session"
    assert found_key(find_aws_credentials(container(profile="default"))) == "default"
    given = find_aws_credentials(container(key="options", secret="s", profile="default"))
    assert found_key(given) == "options"
    assert given.provider is not None
    assert given.provider()["token"] is None, "a session token of the environment belongs to the environment's keys"
    assert find_aws_credentials(container(anon=True, key="options", secret="s")).anonymous


def test_the_region_of_the_options_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    credentials = find_aws_credentials(container(key="k", secret="s"))
    assert find_region(container(), credentials) == "us-east-1"
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-2")
    assert find_region(container(), credentials) == "eu-west-2"
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert find_region(container(), credentials) == "eu-west-1"
    assert find_region(container(region="eu-west-3"), credentials) == "eu-west-3"


def test_a_load_with_the_environment_alone(seaweedfs: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> None:
    seaweedfs.create_bucket(BUCKET)
    seaweedfs.upload(b"0123456789", BUCKET, "x.safetensors")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweedfs.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong at first")
    monkeypatch.setenv("AWS_ENDPOINT_URL", seaweedfs.endpoint)
    source = open_source("s3", {})
    with pytest.raises(AccessDeniedError, match=r"from the environment \(AWS_ACCESS_KEY_ID\)"):
        source.list_blobs(f"s3://{BUCKET}/")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweedfs.secret_access_key)
    (blob,) = source.list_blobs(f"s3://{BUCKET}/").blobs
    assert get_plainly(source.access(blob).grant(), {})[1] == b"0123456789"


def test_the_endpoint_of_the_options_comes_first(seaweedfs: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> None:
    seaweedfs.create_bucket(BUCKET)
    seaweedfs.upload(b"0123456789", BUCKET, "x.safetensors")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    assert open_source("s3", seaweedfs.storage_options).list_blobs(f"s3://{BUCKET}/").blobs


def test_a_ca_bundle_of_the_environment(seaweedfs_tls: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> None:
    seaweedfs_tls.create_bucket(BUCKET)
    seaweedfs_tls.upload(b"0123456789", BUCKET, "x.safetensors")
    options = dict(seaweedfs_tls.storage_options)
    monkeypatch.setenv("AWS_CA_BUNDLE", options.pop("ca_bundle"))
    source = open_source("s3", options)
    (blob,) = source.list_blobs(f"s3://{BUCKET}/").blobs
    assert source.read_range(blob, 0, 3) == b"012"


def test_a_load_with_a_profile(seaweedfs: SeaweedFS, tmp_path: Path) -> None:
    seaweedfs.create_bucket(BUCKET)
    seaweedfs.upload(b"0123456789", BUCKET, "x.safetensors")
    write_profile(
        tmp_path / "AWS_SHARED_CREDENTIALS_FILE",
        "lab",
        aws_access_key_id=seaweedfs.access_key_id,
        aws_secret_access_key=seaweedfs.secret_access_key,
    )
    source = open_source("s3", {"profile": "lab", "endpoint": seaweedfs.endpoint})
    (blob,) = source.list_blobs(f"s3://{BUCKET}/").blobs
    assert get_plainly(source.access(blob).grant(), {})[1] == b"0123456789"


def test_a_load_with_the_machine_s_own_role(seaweedfs: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> None:
    seaweedfs.create_bucket(BUCKET)
    seaweedfs.upload(b"0123456789", BUCKET, "x.safetensors")
    until = datetime.now(UTC) + timedelta(hours=6)
    credentials = {
        "Code": "Success",
        "Type": "AWS-HMAC",
        "AccessKeyId": seaweedfs.access_key_id,
        "SecretAccessKey": seaweedfs.secret_access_key,
        "Token": "",
        "LastUpdated": datetime.now(UTC).isoformat(),
        "Expiration": until.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }

    def metadata(method: str, path: str) -> Said:
        if path.endswith("/api/token"):
            return Said(200, b"imds-token")
        return Said(200, json.dumps(credentials).encode() if path.endswith("/the-role") else b"the-role")

    with ScriptedServer(metadata) as server:
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", server.url)
        monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
        source = open_source("s3", {"endpoint": seaweedfs.endpoint})
        (blob,) = source.list_blobs(f"s3://{BUCKET}/").blobs
        grant = source.access(blob).grant()
    assert get_plainly(grant, {})[1] == b"0123456789"


def test_a_machine_without_a_role(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer(Said(404, b"none")) as server:
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", server.url)
        monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
        with pytest.raises(AccessDeniedError, match="the instance's metadata service gave no credentials, HTTP 404"):
            open_source("s3", {"endpoint": "http://127.0.0.1:9"}).list_blobs("s3://b/")


def test_where_nothing_is_found_all_places_are_named() -> None:
    source = open_source("s3", {"endpoint": "http://127.0.0.1:9"})
    for ask in (lambda: source.list_blobs("s3://b/"), lambda: source.access(Blob("s3://b/k", 1)).grant()):
        with pytest.raises(AccessDeniedError) as caught:
            ask()
        for place in ("storage_options", "AWS_ACCESS_KEY_ID", "AWS_PROFILE", "~/.aws (there is none)", "anonymous"):
            assert place in str(caught.value)
        assert caught.value.uri == "s3://b/"


@pytest.mark.parametrize(
    ("options", "made", "says"),
    [
        ({"key": "k"}, UsageError, "only one of access_key_id and secret_access_key"),
        ({"profile": "nowhere"}, UsageError, "there is no AWS profile nowhere"),
        ({"profile": "bare"}, AccessDeniedError, "the AWS profile bare has no credentials"),
    ],
)
def test_credentials_that_cannot_work(
    options: dict[str, object], made: type[SlipstreamError], says: str, tmp_path: Path
) -> None:
    write_profile(tmp_path / "AWS_CONFIG_FILE", "profile bare", region="eu-west-1")
    with pytest.raises(made, match=says):
        find_aws_credentials(container(**options))


def test_an_sso_login_that_has_ended(tmp_path: Path) -> None:
    write_profile(
        tmp_path / "AWS_CONFIG_FILE",
        "profile sso",
        sso_start_url="https://example.awsapps.com/start",
        sso_region="us-east-1",
        sso_account_id="123456789012",
        sso_role_name="r",
    )
    with pytest.raises(AccessDeniedError, match="aws sso login renews it"):
        find_aws_credentials(container(profile="sso"))


def test_a_profile_without_boto3_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "slipstream\[s3\]"'):
        find_aws_credentials(container(profile="any"))
