"""Options are taken under every library's names, refused with advice, and never shown."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from slipstream.errors import UsageError
from slipstream.sources.storage_options import StorageOptions, parse_storage_options
from slipstream.transport.access import StoreKind

SECRET = "wJalrXUtnFEMI-K7MDENG"
PUBLIC = "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=k==;EndpointSuffix=core.windows.net"
CHINESE = "AccountName=a;AccountKey=k;EndpointSuffix=core.chinacloudapi.cn"


@pytest.mark.parametrize(
    "given",
    [
        {"key": "AK", "secret": SECRET, "token": "T", "endpoint_url": "http://h:9000"},
        {"key": "AK", "secret": SECRET, "token": "T", "client_kwargs": {"endpoint_url": "http://h:9000"}},
        {
            "aws_access_key_id": "AK",
            "aws_secret_access_key": SECRET,
            "aws_session_token": "T",
            "aws_endpoint_url": "http://h:9000/",
        },
        {
            "AWS_ACCESS_KEY_ID": "AK",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_SESSION_TOKEN": "T",
            "AWS_ENDPOINT_URL": "http://h:9000",
        },
        {"access_key_id": "AK", "secret_access_key": SECRET, "session_token": "T", "endpoint": "http://h:9000"},
        {"s3": {"access_key_id": "AK", "secret_access_key": SECRET, "session_token": "T", "endpoint": "http://h:9000"}},
    ],
)
def test_every_library_s_names_mean_the_same_for_s3(given: dict[str, object]) -> None:
    assert parse_storage_options(given, "s3") == StorageOptions(
        access_key_id="AK", secret_access_key=SECRET, session_token="T", endpoint="http://h:9000"
    )


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        ("s3", {"anon": True}, {"anonymous": True}),
        ("s3", {"skip_signature": "true"}, {"anonymous": True}),
        ("s3", {"addressing_style": "virtual"}, {"virtual_hosted_style": True}),
        ("s3", {"virtual_hosted_style_request": False}, {"virtual_hosted_style": False}),
        ("s3", {"region_name": "eu-west-1", "profile": "p"}, {"region": "eu-west-1", "profile": "p"}),
        ("s3", {"verify": "/ca.pem"}, {"ca_bundle": "/ca.pem"}),
        ("s3", {"ca_bundle": Path("/ca.pem"), "verify": True}, {"ca_bundle": "/ca.pem"}),
        ("s3", {"headers": {"X-B": "2", "X-A": "1"}}, {"headers": (("X-A", "1"), ("X-B", "2"))}),
        ("s3", {"region": None}, {}),
        ("gs", {"token": "anon"}, {"anonymous": True}),
        ("gs", {"token": "google_default"}, {}),
        ("gs", {"token": "ya29.x"}, {"bearer_token": "ya29.x"}),
        ("gs", {"token": "/keys/sa.json"}, {"service_account": "/keys/sa.json"}),
        ("gs", {"token": {"type": "x"}}, {"service_account_key": '{"type": "x"}'}),
        ("gs", {"google_application_credentials": "/a.json"}, {"service_account": "/a.json"}),
        (
            "az",
            {"account_name": "a", "account_key": "k", "sas_token": "s"},
            {"account_name": "a", "account_key": "k", "sas_token": "s"},
        ),
        (
            "az",
            {"azure_storage_account_name": "a", "azure_storage_sas_key": "s"},
            {"account_name": "a", "sas_token": "s"},
        ),
        ("az", {"token": "eyJ"}, {"bearer_token": "eyJ"}),
        (
            "az",
            {"connection_string": PUBLIC},
            {"account_name": "a", "account_key": "k=="},
        ),
        (
            "az",
            {"connection_string": CHINESE},
            {"account_name": "a", "account_key": "k", "endpoint": "https://a.blob.core.chinacloudapi.cn"},
        ),
        (
            "az",
            {"connection_string": "BlobEndpoint=https://a.b/;SharedAccessSignature=sv=1&sig=x"},
            {"endpoint": "https://a.b", "sas_token": "sv=1&sig=x"},
        ),
        ("http", {"headers": {"A": "b"}, "proxy": "http://p:1"}, {"headers": (("A", "b"),), "proxy": "http://p:1"}),
    ],
)
def test_aliases(kind: StoreKind, given: dict[str, object], expected: dict[str, object]) -> None:
    assert parse_storage_options(given, kind) == StorageOptions(**expected)  # type: ignore[arg-type]


def test_one_mapping_serves_every_scheme_of_a_call_and_a_scheme_s_own_comes_first() -> None:
    given = {"anon": True, "gs": {"token": "ya29", "anon": False}, "az": {"account_name": "acc"}}
    assert parse_storage_options(given, "s3") == StorageOptions(anonymous=True)
    assert parse_storage_options(given, "gs") == StorageOptions(bearer_token="ya29")
    assert parse_storage_options(given, "az") == StorageOptions(anonymous=True, account_name="acc")


def test_names_of_another_kind_of_store_are_no_mistake() -> None:
    assert parse_storage_options({"account_key": "k", "service_account": "/x"}, "s3") == StorageOptions()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"endpoint_uri": "http://h"}, 'did you mean "endpoint_url"?'),
        ({"acces_key_id": SECRET}, 'did you mean "access_key_id"?'),
        ({"gs": {"acount": SECRET}}, "acount"),
        ({SECRET * 3: "x"}, "for this store it knows"),
        ({"key": 5}, "key that is a int"),
        ({"secret": ""}, "it is one line of text"),
        ({"secret": SECRET + "\nx"}, "it is one line of text"),
        ({"anon": "perhaps"}, "True or False"),
        ({"addressing_style": "host"}, '"path", "virtual" or "auto"'),
        ({"headers": "X: " + SECRET}, "a mapping of header names"),
        ({"headers": {"X": SECRET + "\r\nY: 1"}}, "one line of text each"),
        ({"verify": False}, "always checks certificates"),
        ({"endpoint": "h:9000"}, "with its scheme"),
        ({"endpoint": f"http://user:{SECRET}@h:9000"}, "without user, password"),
        ({5: "x"}, "names are text"),
        ({"s3": SECRET}, "storage_options has no 's3'"),
    ],
)
def test_a_mistake_is_named_without_showing_a_value(given: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_storage_options(given, "s3")
    assert says in str(caught.value)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("gs", {"service_account_key": SECRET}),
        ("az", {"connection_string": SECRET}),
        ("az", {"account_key": [SECRET]}),
        ("gs", {"token": [SECRET]}),
    ],
)
def test_mistakes_of_the_other_clouds_show_no_value_either(kind: StoreKind, given: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        parse_storage_options(given, kind)
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value.__context__)


def test_options_that_are_no_mapping_are_refused() -> None:
    with pytest.raises(UsageError, match="mapping of names to values"):
        parse_storage_options("key=x", "s3")  # type: ignore[arg-type]


def test_a_repr_shows_no_secret_and_options_travel_to_other_processes() -> None:
    options = parse_storage_options(
        {
            "secret": SECRET,
            "key": SECRET,
            "token": SECRET,
            "headers": {"Authorization": SECRET},
            "proxy": f"http://u:{SECRET}@p:1",
        },
        "s3",
    )
    assert SECRET not in repr(options)
    assert SECRET not in str(options)
    assert SECRET in options.secrets()
    assert pickle.loads(pickle.dumps(options)) == options
    assert hash(options) == hash(pickle.loads(pickle.dumps(options)))


def test_a_google_key_is_a_path_a_text_or_a_mapping() -> None:
    key = {"type": "service_account", "private_key": SECRET}
    for value in (key, json.dumps(key)):
        options = parse_storage_options({"service_account_key": value}, "gs")
        assert json.loads(options.service_account_key or "") == key
        assert SECRET not in repr(options)
