"""Credentials and endpoint of Google Cloud Storage.

A service account's key signs URLs. Every other identity has an access token, which is sent as it is: letting Google
sign for it costs a request per blob and a permission that few have.

Source: "How Application Default Credentials works", Google Cloud documentation.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from typing import Any

from slipstream.errors import AccessDeniedError, MissingDependencyError, UsageError
from slipstream.sources.credentials import Container, Credentials, Provider, Showing, is_set, no_credentials, variable

_PIP = 'pip install "slipstream[gs]"'
_SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"
_METADATA_WAIT_S = 1.0  # it answers in milliseconds or not at all
_DEFAULT_FILE = "~/.config/gcloud/application_default_credentials.json"


def find_google_credentials(container: Container) -> Credentials:
    """Finds what to show to a bucket.

    Raises:
        AccessDeniedError: there is nothing. The text says what was looked at.
        MissingDependencyError: what was found takes google-auth, which is not installed.
        UsageError: a credentials file that is missing or of no known form.
    """
    options = container.options
    if options.anonymous or (emulator_url() and not options.service_account and not options.service_account_key):
        return Credentials(Showing.NOTHING, "storage_options", {"skip_signature": True})
    if options.bearer_token:
        return _bearer("storage_options", _given_token(options.bearer_token))
    if options.service_account_key:
        return _from_content(options.service_account_key, "storage_options")
    if options.service_account:
        return _from_file(options.service_account, "storage_options")
    return _find_in_environment()


def _find_in_environment() -> Credentials:
    if is_set("GOOGLE_SKIP_SIGNATURE"):
        return Credentials(Showing.NOTHING, "GOOGLE_SKIP_SIGNATURE", {"skip_signature": True})
    if token := variable("GOOGLE_BEARER_TOKEN"):
        return _bearer("GOOGLE_BEARER_TOKEN", _given_token(token))
    if content := variable("GOOGLE_SERVICE_ACCOUNT_KEY"):
        return _from_content(content, "GOOGLE_SERVICE_ACCOUNT_KEY")
    for name in ("GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH", "GOOGLE_APPLICATION_CREDENTIALS"):
        if path := variable(name):
            return _from_file(path, name)
    if os.path.isfile(os.path.expanduser(_DEFAULT_FILE)):
        return _from_file(_DEFAULT_FILE, "gcloud's application default credentials")
    try:
        _metadata_token()
    except (OSError, ValueError, KeyError):
        pass
    else:
        return _bearer("the machine's metadata service", _metadata_token)
    raise no_credentials(
        "Google",
        f"storage_options, GOOGLE_APPLICATION_CREDENTIALS (not set), {_DEFAULT_FILE} (there is none), the machine's "
        "metadata service (no answer)",
        'Run gcloud auth application-default login; for a public bucket give storage_options={"anonymous": True}',
    )


def _from_file(path: str, found: str) -> Credentials:
    path = os.path.expanduser(path)
    try:
        with open(path, encoding="utf-8") as file:
            content = file.read()
    except (OSError, ValueError) as error:
        fault = error.strerror if isinstance(error, OSError) else "it is not text"
    else:
        return _from_content(content, found, {"service_account": path})
    raise UsageError(f"the Google credentials file {path}, from {found}, cannot be read: {fault}")


def _from_content(content: str, found: str, config: Mapping[str, str] | None = None) -> Credentials:
    """Credentials from a file's content; `config` has obstore read the file itself."""
    try:
        fields = json.loads(content)
        kind = fields.get("type", "service_account")
    except (ValueError, AttributeError):
        kind = None
    if kind is None:
        raise UsageError(f"the Google credentials from {found} are not JSON of the usual form")
    if kind != "service_account":
        return _bearer(f"{found} ({kind})", _library_provider(content, kind))
    config = config or {"service_account_key": content}
    _refuse_two_keys(config)
    return Credentials(
        Showing.SIGNATURE,
        f"a service account, from {found}",
        config,
        lasting=True,
        secrets=(content, str(fields.get("private_key", ""))),
        endpoint=fields.get("gcs_base_url"),
    )


def _refuse_two_keys(config: Mapping[str, str]) -> None:
    """obstore reads these variables whatever it is told, and fails on a path and a key together."""
    other = (
        ("GOOGLE_SERVICE_ACCOUNT_KEY",)
        if "service_account" in config
        else ("GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH")
    )
    if variable(*other):
        raise UsageError(f"there is another Google service account in the environment: unset {' and '.join(other)}")


def _library_provider(content: str, kind: str) -> Provider:
    """Tokens of a user, of an external or an impersonated account: google-auth makes them."""
    if find_spec("google") is None or find_spec("google.auth") is None:
        raise MissingDependencyError(f"Google credentials of the type {kind} are read with google-auth: {_PIP}")
    try:
        import google.auth.transport.requests

        credentials = _load_with_library(json.loads(content), kind)
    except Exception as error:  # google-auth has many of its own, and ValueError for what a file lacks
        fault = type(error).__name__
    else:
        if credentials is not None:
            return _refreshing(credentials, google.auth.transport.requests.Request())
        fault = "an unknown type"
    raise UsageError(f"the Google credentials of the type {kind} cannot be used ({fault}): make them again with gcloud")


def _load_with_library(info: dict[str, Any], kind: str) -> Any:
    """google-auth's object for a credentials file, None for a type it does not know.

    As `google.auth.load_credentials_from_dict`, less its requests for a project, which reading needs not.
    """
    from google.auth import aws, external_account_authorized_user, identity_pool, impersonated_credentials, pluggable
    from google.oauth2.credentials import Credentials

    load: Any = None
    match kind:
        case "authorized_user":
            return Credentials.from_authorized_user_info(info, [_SCOPE])  # type: ignore[no-untyped-call]
        case "external_account_authorized_user":
            load = external_account_authorized_user.Credentials.from_info
        case "impersonated_service_account":
            load = impersonated_credentials.Credentials.from_impersonated_service_account_info
        case "external_account" if info.get("subject_token_type") == "urn:ietf:params:aws:token-type:aws4_request":
            load = aws.Credentials.from_info
        case "external_account" if "executable" in info.get("credential_source", {}):
            load = pluggable.Credentials.from_info
        case "external_account":
            load = identity_pool.Credentials.from_info
        case _:
            return None
    return load(info, scopes=[_SCOPE])


def _refreshing(credentials: Any, request: Any) -> Provider:
    def provide() -> dict[str, Any]:
        try:
            if not credentials.valid:
                credentials.refresh(request)
        except Exception as error:
            fault = type(error).__name__
        else:
            expiry = credentials.expiry
            return {"token": credentials.token, "expires_at": expiry and expiry.replace(tzinfo=UTC)}
        raise AccessDeniedError(
            f"Google gives no access token for these credentials ({fault}): gcloud auth application-default login "
            "renews a user's"
        )

    return provide


def _metadata_token() -> dict[str, Any]:
    """The token of the machine's service account.

    Source: "Access VM metadata" and "Authenticate workloads using service accounts", Compute Engine documentation.
    """
    import http.client

    host = variable("GCE_METADATA_HOST", "GCE_METADATA_ROOT", "GCE_METADATA_IP") or "169.254.169.254"
    connection = http.client.HTTPConnection(host, timeout=_METADATA_WAIT_S)
    try:
        path = f"/computeMetadata/v1/instance/service-accounts/default/token?scopes={_SCOPE}"
        connection.request("GET", path, headers={"Metadata-Flavor": "Google"})
        answer = connection.getresponse()
        content = json.loads(answer.read(65536)) if answer.status == 200 else {}
    except http.client.HTTPException:
        content = {}
    finally:
        connection.close()
    expires_at = datetime.now(UTC) + timedelta(seconds=int(content["expires_in"]))
    return {"token": str(content["access_token"]), "expires_at": expires_at}


def _given_token(token: str) -> Provider:
    return lambda: {"token": token, "expires_at": None}


def _bearer(found: str, provider: Provider) -> Credentials:
    return Credentials(Showing.BEARER, found, provider=provider)


def emulator_url() -> str | None:
    """Where the variable of all Google libraries says an emulator is."""
    host = variable("STORAGE_EMULATOR_HOST")
    return host if host is None or "://" in host else f"http://{host}"


def find_bucket_url(container: Container, credentials: Credentials) -> str:
    """The URL of the bucket, without a slash at its end."""
    named = container.options.endpoint or emulator_url() or variable("GOOGLE_BASE_URL")
    named = named or credentials.endpoint or "https://storage.googleapis.com"
    return f"{named.rstrip('/')}/{container.name}"
