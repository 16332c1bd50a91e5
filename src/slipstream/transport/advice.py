"""What to check next when a store refuses, by its own code and status. Pure functions, for listings and reads alike.

Sources: "Error responses" of the Amazon S3 API reference; "Blob service error codes" of Azure Storage; "HTTP status
and error codes for XML" of Google Cloud Storage.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, TypeAlias

from slipstream.errors import AccessDeniedError, BlobNotFoundError, ReadError, SlipstreamError, UsageError
from slipstream.transport.access import StoreKind

Fault: TypeAlias = Literal[
    "no container", "no blob", "denied", "signature", "key", "expired", "clock", "region", "changed", "busy", "other"
]
"""What went wrong, whichever store says so."""

NetworkFault: TypeAlias = Literal[
    "dns", "refused", "timeout", "reset", "certificate", "plain", "tls", "proxy", "network"
]
"""What went wrong before a store could answer."""

_FAULTS: Mapping[str, Fault] = {
    "NoSuchBucket": "no container",
    "ContainerNotFound": "no container",
    "ContainerBeingDeleted": "no container",
    "InvalidBucketName": "no container",
    "NoSuchKey": "no blob",
    "BlobNotFound": "no blob",
    "AccessDenied": "denied",
    "AllAccessDisabled": "denied",
    "AuthorizationFailure": "denied",  # Azure: its firewall
    "AuthorizationPermissionMismatch": "denied",
    "InsufficientAccountPermissions": "denied",
    "NoAuthenticationInformation": "denied",
    "PublicAccessNotPermitted": "denied",
    "SignatureDoesNotMatch": "signature",
    "AuthenticationFailed": "signature",  # Azure: also of a signature that has expired
    "InvalidAuthenticationInfo": "signature",
    "InvalidAccessKeyId": "key",
    "InvalidToken": "key",
    "InvalidSecurity": "key",
    "ExpiredToken": "expired",
    "ExpiredTokenException": "expired",
    "TokenRefreshRequired": "expired",
    "RequestExpired": "expired",
    "RequestTimeTooSkewed": "clock",
    "RequestInTheFuture": "clock",
    "AuthorizationHeaderMalformed": "region",
    "AuthorizationQueryParametersError": "region",
    "PermanentRedirect": "region",
    "TemporaryRedirect": "region",
    "IllegalLocationConstraintException": "region",
    "PreconditionFailed": "changed",
    "ConditionNotMet": "changed",
    "SlowDown": "busy",
    "ServerBusy": "busy",
    "ServiceUnavailable": "busy",
    "RequestLimitExceeded": "busy",
    "rateLimitExceeded": "busy",
}
_BY_STATUS: Mapping[int, Fault] = {401: "denied", 403: "denied", 404: "no blob", 410: "no blob", 412: "changed"}
_SAID: Mapping[Fault, str] = {
    "no container": "there is no such {container}",
    "no blob": "it does not exist",
    "denied": "access is denied",
    "signature": "the signature is not accepted",
    "key": "the credentials are unknown to the store",
    "expired": "the credentials have expired",
    "clock": "this computer's clock is wrong",
    "region": "the bucket is in another region",
    "changed": "it has changed since it was first looked at",
    "busy": "the store is overloaded or has failed",
    "other": "the store refused",
}
_CLASSES: Mapping[Fault, type[SlipstreamError]] = {
    "no container": BlobNotFoundError,
    "no blob": BlobNotFoundError,
    "denied": AccessDeniedError,
    "signature": AccessDeniedError,
    "key": AccessDeniedError,
    "expired": AccessDeniedError,
    "clock": AccessDeniedError,
    "region": UsageError,
}


def find_fault(status: int | None, code: str | None) -> Fault:
    """What a store's answer means.

    Args:
        status: of HTTP; None where there was none.
        code: the store's own, from the answer's body or `x-ms-error-code`; None where it gave none.
    """
    if code is not None and code in _FAULTS:
        return _FAULTS[code]
    if status in (301, 307, 308):
        return "region"
    if status == 429 or (status is not None and status >= 500):
        return "busy"
    return _BY_STATUS.get(status or 0, "other")


def error_class(fault: Fault) -> type[SlipstreamError]:
    """Which error tells the caller what they can do about a fault; ReadError for what only the store can mend."""
    return _CLASSES.get(fault, ReadError)


def describe_fault(kind: StoreKind, fault: Fault) -> str:
    """What went wrong, as a clause: "access is denied"."""
    return _SAID[fault].format(container="container" if kind == "az" else "bucket")


def advise(
    kind: StoreKind,
    status: int | None,
    code: str | None,
    *,
    anonymous: bool = False,
    credentials: str | None = None,
    region: str | None = None,
    container: str | None = None,
) -> str:
    """What to check next, as a clause without a full stop. Holds nothing secret if its arguments do not.

    Args:
        kind: which store's options and rules apply.
        status: of HTTP; None where there was none.
        code: the store's own.
        anonymous: whether the request was made without credentials.
        credentials: where those that were used came from, such as "the profile research".
        region: the right one, where the store has said it.
        container: the bucket or container, for the text.
    """
    fault = find_fault(status, code)
    if status == 400 and not code:
        return "the request was not understood: check whether the port speaks http or https"
    if kind == "http":
        return _HTTP_ADVICE.get(fault, "")
    used = f" from {credentials}" if credentials else ""
    named = f" {container}" if container else ""
    match fault:
        case "no container":
            noun = "container" if kind == "az" else "bucket"
            return f"check the {noun}'s name{named}, and the {_ACCOUNTS[kind]} it belongs to"
        case "no blob":
            return "check the name, and that its upload is complete"
        case _ if code in _SPECIAL and not anonymous:
            return _SPECIAL[code]
        case "denied" if anonymous:
            return f"no credentials were sent, as asked for with anonymous, so only public data is read: {_GIVE[kind]}"
        case "denied":
            return f"the credentials{used} are valid but may not do this: {_PERMISSIONS[kind]}"
        case "signature":
            return f"the {_SECRETS[kind]}{used} does not belong to this {_KEYS[kind]}: check both for typing errors"
        case "key":
            return f"check the {_KEYS[kind]}{used}, and that it belongs to this endpoint"
        case "expired":
            return f"renew the credentials{used}{_RENEW[kind]}"
        case "clock":
            return "stores refuse signatures that are more than minutes off: set the clock, for example with NTP"
        case "region":
            asked = f'"{region}"' if region else "the bucket's"
            return f'set the region to {asked}, as storage_options={{"region": ...}} or in AWS_REGION'
        case "changed":
            return "load again once its writer is done"
        case "busy":
            return "try again later, or with less concurrency"
        case "other":
            return ""


def advise_network(kind: StoreKind, fault: NetworkFault) -> str:
    """What to check next where no answer came, as a clause without a full stop."""
    where = "the host in the URL" if kind == "http" else "the endpoint, and what of it is a region, account or bucket"
    bundle = ", or in AWS_CA_BUNDLE" if kind == "s3" else ", or in SSL_CERT_FILE"
    return {
        "dns": f"check {where}, and this computer's network",
        "refused": "check the host and port, and that the server is running",
        "timeout": "check that a firewall or proxy does not swallow the connection (HTTPS_PROXY, NO_PROXY)",
        "reset": "the server or something between closed the connection: try again, and look at the server's log",
        "certificate": (
            "a certificate must be in date, for this host, and of an authority that this computer trusts: give an "
            f'authority of your own as storage_options={{"ca_bundle": "ca.pem"}}{bundle}'
        ),
        "plain": "the port speaks plain HTTP: write http:// in the endpoint, or use its TLS port",
        "tls": "check that the port speaks TLS, and which versions",
        "proxy": 'check HTTPS_PROXY, HTTP_PROXY and NO_PROXY, or storage_options={"proxy": ...}',
        "network": "check the endpoint and the network",
    }[fault]


def describe_network(fault: NetworkFault) -> str:
    """What went wrong where no answer came, as a clause."""
    return _NETWORK[fault]


_NETWORK: Mapping[NetworkFault, str] = {
    "dns": "its host name cannot be resolved",
    "refused": "the connection was refused",
    "timeout": "it did not answer in time",
    "reset": "the connection was closed before the answer",
    "certificate": "its certificate cannot be verified",
    "plain": "it answered a TLS greeting in plain text",
    "tls": "no TLS connection could be made",
    "proxy": "the proxy did not let the connection through",
    "network": "the request could not be sent",
}
_ACCOUNTS: Mapping[StoreKind, str] = {"s3": "endpoint and region", "gs": "project", "az": "storage account"}
_SECRETS: Mapping[StoreKind, str] = {"s3": "secret access key", "gs": "private key", "az": "account key or SAS token"}
_KEYS: Mapping[StoreKind, str] = {"s3": "access key id", "gs": "service account", "az": "storage account"}
_GIVE: Mapping[StoreKind, str] = {
    "s3": "give access_key_id and secret_access_key, or a profile",
    "gs": "give a service_account file or a token",
    "az": "give an account_key, a sas_token or a token",
}
_PERMISSIONS: Mapping[StoreKind, str] = {
    "s3": (
        "it takes s3:GetObject on the objects, and s3:ListBucket on the bucket, without which a missing object is "
        "denied too"
    ),
    "gs": "it takes storage.objects.get and storage.objects.list, for example the role Storage Object Viewer",
    "az": (
        "it takes the role Storage Blob Data Reader, or a SAS token with read and list, and a firewall that lets this "
        "network in"
    ),
}
_RENEW: Mapping[StoreKind, str] = {
    "s3": " (aws sso login, or a new session token)",
    "gs": " (gcloud auth application-default login)",
    "az": " (az login, or a new SAS token)",
}
_SPECIAL: Mapping[str | None, str] = {
    "AuthenticationFailed": "check that the account key or SAS token is copied whole, and a token's start and expiry",
    "AuthorizationFailure": (
        "the account's firewall may not let this network in, or the SAS token lacks a right, or the key is wrong"
    ),
    "PublicAccessNotPermitted": "the account allows no anonymous access: give an account_key, a sas_token or a token",
    "AuthorizationQueryParametersError": "check the region, and that the clock is right",
}
_HTTP_ADVICE: Mapping[Fault, str] = {
    "no blob": "check the URL",
    "denied": 'give what the server asks for, for example storage_options={"headers": {"Authorization": ...}}',
    "changed": "load again once its writer is done",
    "busy": "try again later, or with less concurrency",
}

_CODE = re.compile(r"<Code>\s*([A-Za-z][A-Za-z0-9._-]{0,80})\s*</Code>")
_MESSAGE = re.compile(r"<Message>\s*([^<]{1,2000})")
_REGION = re.compile(r"<Region>\s*([a-z0-9-]{1,40})\s*</Region>|expecting '([a-z0-9-]{1,40})'")


def parse_refusal(body: str) -> tuple[str | None, str | None, str | None]:
    """The store's own code, the first line of its message, and the right region, of the body of a refusal.

    S3, Azure and Google's XML API answer in XML, Google's JSON API in JSON. Anything else of these bodies is left
    out on purpose: some repeat keys, signatures and the text that was signed.
    """
    code, message, region = _CODE.search(body), _MESSAGE.search(body), _REGION.search(body)
    if code is None and body.lstrip().startswith("{"):
        return (*_parse_json(body), None)
    first = message[1].strip().split("\n")[0].strip() if message else None
    return code and code[1], first and first[:300], region and (region[1] or region[2])


def _parse_json(body: str) -> tuple[str | None, str | None]:
    import json

    try:
        error = json.loads(body)["error"]
        if isinstance(error, str):  # OAuth: {"error": "invalid_grant", "error_description": "..."}
            return error[:80], str(json.loads(body).get("error_description", "")).split("\n")[0][:300] or None
        reasons = [item.get("reason") for item in error.get("errors", ())]
        code = next(iter(reasons), None) or error.get("status")
        return code if isinstance(code, str) else None, str(error["message"]).split("\n")[0][:300]
    except (ValueError, LookupError, TypeError, AttributeError):
        return None, None
