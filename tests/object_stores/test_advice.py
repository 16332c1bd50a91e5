"""One wording for both planes: what a store's code means, and what to check next."""

from __future__ import annotations

from typing import get_args

import pytest

from slipstream.errors import AccessDeniedError, BlobNotFoundError, ReadError, UsageError
from slipstream.transport.access import StoreKind
from slipstream.transport.advice import (
    Fault,
    NetworkFault,
    advise,
    advise_network,
    describe_fault,
    describe_network,
    error_class,
    find_fault,
    parse_refusal,
)


@pytest.mark.parametrize(
    ("status", "code", "fault", "kind_of_error"),
    [
        (404, "NoSuchBucket", "no container", BlobNotFoundError),
        (404, "ContainerNotFound", "no container", BlobNotFoundError),
        (404, "NoSuchKey", "no blob", BlobNotFoundError),
        (404, None, "no blob", BlobNotFoundError),
        (403, "AccessDenied", "denied", AccessDeniedError),
        (401, None, "denied", AccessDeniedError),
        (403, "SomethingNew", "denied", AccessDeniedError),
        (403, "SignatureDoesNotMatch", "signature", AccessDeniedError),
        (403, "InvalidAccessKeyId", "key", AccessDeniedError),
        (400, "ExpiredToken", "expired", AccessDeniedError),
        (403, "RequestTimeTooSkewed", "clock", AccessDeniedError),
        (400, "AuthorizationHeaderMalformed", "region", UsageError),
        (301, None, "region", UsageError),
        (412, None, "changed", ReadError),
        (429, None, "busy", ReadError),
        (503, "SlowDown", "busy", ReadError),
        (400, None, "other", ReadError),
        (None, None, "other", ReadError),
    ],
)
def test_what_an_answer_means(
    status: int | None, code: str | None, fault: Fault, kind_of_error: type[Exception]
) -> None:
    assert find_fault(status, code) == fault
    assert error_class(fault) is kind_of_error


@pytest.mark.parametrize("kind", get_args(StoreKind))
def test_every_fault_has_words_for_every_store(kind: StoreKind) -> None:
    for fault in get_args(Fault):
        assert describe_fault(kind, fault)
    for network in get_args(NetworkFault):
        assert describe_network(network)
        assert not advise_network(kind, network).endswith(".")


def test_advice_says_where_the_credentials_came_from_and_which_region_is_right() -> None:
    assert "the profile research" in advise("s3", 403, "SignatureDoesNotMatch", credentials="the profile research")
    assert '"eu-west-1"' in advise("s3", 301, "PermanentRedirect", region="eu-west-1")
    assert "anonymous" in advise("s3", 403, "AccessDenied", anonymous=True)
    assert "anonymous" in advise("az", 403, "AuthorizationFailure", anonymous=True)
    assert "anonymous" not in advise("s3", 403, "AccessDenied", credentials="storage_options")


@pytest.mark.parametrize(
    ("body", "code", "message", "region"),
    [
        ("<Error><Code>NoSuchKey</Code><Message>No such.</Message></Error>", "NoSuchKey", "No such.", None),
        ("<Error>\n <Code>A</Code>\n <Message>One\nRequestId:2</Message></Error>", "A", "One", None),
        ("<Error><Code>A</Code><Message>x</Message><Region>eu-west-1</Region></Error>", "A", "x", "eu-west-1"),
        ("<Error><Code>A</Code><Message>wrong; expecting 'eu-west-1'</Message></Error>", "A", None, "eu-west-1"),
        ('{"error": {"code": 403, "message": "No.", "errors": [{"reason": "forbidden"}]}}', "forbidden", "No.", None),
        ('{"error": "invalid_grant", "error_description": "Gone"}', "invalid_grant", "Gone", None),
        ("<html>nothing of it</html>", None, None, None),
        ('{"error": 5}', None, None, None),
        ("", None, None, None),
    ],
)
def test_a_refusal_s_own_words(body: str, code: str | None, message: str | None, region: str | None) -> None:
    found = parse_refusal(body)
    assert found[0] == code
    assert message is None or found[1] == message
    assert found[2] == region


def test_what_else_a_refusal_repeats_is_left_out() -> None:
    body = (
        "<Error><Code>SignatureDoesNotMatch</Code><Message>Not the same.</Message><AWSAccessKeyId>AKIASECRET"
        "</AWSAccessKeyId><StringToSign>SECRET</StringToSign><SignatureProvided>SECRET</SignatureProvided></Error>"
    )
    assert "SECRET" not in str(parse_refusal(body))
