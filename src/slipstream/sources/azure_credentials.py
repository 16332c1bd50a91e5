"""Credentials, account and endpoint of Azure Blob Storage.

An account key signs URLs, a SAS token is one, and an identity of Entra ID has an access token, which is sent as it is:
signing with it takes a further permission. obstore finds the identities of machines and pods itself, but keeps
their tokens; where azure-identity is installed it finds them instead.
"""

from __future__ import annotations

import base64
import logging
import os
from dataclasses import replace
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from slipstream.errors import AccessDeniedError, UsageError
from slipstream.sources.credentials import Container, Credentials, Provider, Showing, is_set, no_credentials, variable
from slipstream.sources.storage_options import StorageOptions, merge_connection_string

API_VERSION = "2023-11-03"
"""Sent as `x-ms-version`, without which Azure accepts no bearer token. What obstore 0.12 sends itself."""

_PIP = 'pip install "slipstream[az]"'
_SCOPE = "https://storage.azure.com/.default"
_KEYS = ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_KEY", "AZURE_STORAGE_MASTER_KEY")
_SAS = ("AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY")


def complete_azure_options(options: StorageOptions) -> StorageOptions:
    """Adds the account's name and what a connection string in the environment says.

    Raises:
        UsageError: the connection string is none.
    """
    given = options.account_key or options.sas_token or options.bearer_token or options.client_secret
    text = variable("AZURE_STORAGE_CONNECTION_STRING")
    if text and not given and not options.anonymous:
        merged = merge_connection_string(options, text)
        if options.account_name in (None, merged.account_name):
            options = merged
    account = options.account_name or variable("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT")
    endpoint = options.endpoint or variable("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")
    return replace(options, account_name=account, endpoint=endpoint)


def find_azure_credentials(container: Container) -> Credentials:
    """Finds what to show to a container.

    Raises:
        AccessDeniedError: there is nothing. The text says what was looked at.
    """
    options = container.options
    if options.anonymous:
        return Credentials(Showing.NOTHING, "storage_options", {"skip_signature": True})
    if options.account_key:
        return _account_key(options.account_key, "storage_options")
    if options.sas_token:
        return _shared_access(options.sas_token, "storage_options")
    if options.bearer_token:
        return _bearer("storage_options", _given_token(options.bearer_token))
    if options.client_secret:
        return _service_principal(options)
    return _find_in_environment(options)


def _find_in_environment(options: StorageOptions) -> Credentials:
    if is_set("AZURE_SKIP_SIGNATURE"):
        return Credentials(Showing.NOTHING, "AZURE_SKIP_SIGNATURE", {"skip_signature": True})
    if key := variable(*_KEYS):
        return _account_key(key, "the environment (AZURE_STORAGE_ACCOUNT_KEY)")
    if token := variable(*_SAS):
        return _shared_access(token, "the environment (AZURE_STORAGE_SAS_TOKEN)")
    if token := variable("AZURE_STORAGE_TOKEN"):
        return _bearer("AZURE_STORAGE_TOKEN", _given_token(token))
    if find_spec("azure") is not None and find_spec("azure.identity") is not None:
        return _bearer("azure-identity", _default_identity(options))
    if variable("AZURE_CLIENT_SECRET", "AZURE_STORAGE_CLIENT_SECRET"):
        return Credentials(Showing.SIGNATURE, "the service principal in AZURE_CLIENT_ID")
    if variable("AZURE_FEDERATED_TOKEN_FILE"):
        return Credentials(Showing.SIGNATURE, "the workload identity in AZURE_FEDERATED_TOKEN_FILE")
    if is_set("AZURE_USE_AZURE_CLI"):
        return Credentials(Showing.SIGNATURE, "the Azure command line")
    if _metadata_answers():
        return Credentials(Showing.SIGNATURE, "the machine's managed identity")
    raise _nothing_found(f"; azure-identity is not installed: {_PIP}")


def _nothing_found(more: str = "") -> AccessDeniedError:
    return no_credentials(
        "Azure",
        "storage_options, AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN and AZURE_STORAGE_CONNECTION_STRING (not "
        f"set), service principal, workload and managed identity{more}",
        'For a public container give storage_options={"anonymous": True}',
    )


def _account_key(key: str, found: str) -> Credentials:
    try:
        usable = bool(base64.b64decode(key, validate=True))
    except ValueError:
        usable = False
    if not usable:
        raise UsageError(f"the Azure account key from {found} is not base64: copy it whole, with the = at its end")
    provider: Provider = lambda: {"access_key": key, "expires_at": None}  # noqa: E731
    return Credentials(Showing.SIGNATURE, found, provider=provider, lasting=True, secrets=(key,))


def _shared_access(token: str, found: str) -> Credentials:
    token = token.lstrip("?")
    provider: Provider = lambda: {"sas_token": token, "expires_at": None}  # noqa: E731
    return Credentials(Showing.SAS, found, provider=provider, secrets=(token,))


def _service_principal(options: StorageOptions) -> Credentials:
    if not (options.tenant_id and options.client_id and options.client_secret):
        raise UsageError("storage_options has client_secret without tenant_id or client_id: they belong together")
    if find_spec("azure") is None or find_spec("azure.identity") is None:
        config = {name: getattr(options, name) for name in ("tenant_id", "client_id", "client_secret")}
        return Credentials(Showing.SIGNATURE, "storage_options", config, secrets=(options.client_secret,))
    from azure.identity import ClientSecretCredential

    authority = variable("AZURE_AUTHORITY_HOST")
    identity = ClientSecretCredential(
        options.tenant_id, options.client_id, options.client_secret, **({"authority": authority} if authority else {})
    )
    return _bearer("storage_options", _identity_provider(identity, "the service principal in storage_options"))


def _default_identity(options: StorageOptions) -> Provider:
    from azure.identity import DefaultAzureCredential

    # It warns of every identity it does not find; where nobody listens, Python would print that.
    logging.getLogger("azure.identity").addHandler(logging.NullHandler())
    client = options.client_id or os.environ.get("AZURE_CLIENT_ID")
    identity = DefaultAzureCredential(managed_identity_client_id=client, workload_identity_client_id=client)
    provider = _identity_provider(identity, "azure-identity")
    provider()  # here, where its failure can be told from a store's
    return provider


def _identity_provider(identity: Any, found: str) -> Provider:
    from azure.core.exceptions import ClientAuthenticationError
    from azure.identity import CredentialUnavailableError

    def provide() -> dict[str, Any]:
        try:
            token = identity.get_token(_SCOPE)
        except CredentialUnavailableError:
            refusal = _nothing_found()
        except ClientAuthenticationError as error:
            attempted = "DefaultAzureCredential failed" in str(error)
            refusal = _nothing_found() if attempted else AccessDeniedError(f"Entra ID refuses {found}: {_code(error)}")
        except Exception as error:
            refusal = AccessDeniedError(f"{found} gives no access token ({type(error).__name__}): run az login")
        else:
            return {"token": token.token, "expires_at": datetime.fromtimestamp(token.expires_on, UTC)}
        raise refusal

    return provide


def _code(error: Exception) -> str:
    """Only the first words, such as AADSTS7000215: the rest of such a message may be anything."""
    import re

    match = re.search(r"AADSTS\d+", str(error))
    return (
        f"{match[0]}, see https://learn.microsoft.com/entra/identity-platform/reference-error-codes"
        if match
        else ("run az login, or check the tenant, client and secret")
    )


def _given_token(token: str) -> Provider:
    return lambda: {"token": token, "expires_at": None}


def _bearer(found: str, provider: Provider) -> Credentials:
    return Credentials(Showing.BEARER, found, provider=provider)


def _metadata_answers() -> bool:
    """Whether a machine's or an app's identity service is there."""
    import socket

    if variable("IDENTITY_ENDPOINT", "AZURE_MSI_ENDPOINT", "AZURE_IDENTITY_ENDPOINT"):
        return True
    try:
        socket.create_connection(("169.254.169.254", 80), 1.0).close()
    except OSError:
        return False
    return True


def find_container_url(container: Container) -> str:
    """The URL of the container, without a slash at its end.

    Raises:
        UsageError: nothing says which account it belongs to, or the URI names another than the key is for.
    """
    options = container.options
    bound = (options.account_key or options.sas_token) and not options.anonymous
    if container.account and bound and options.account_name not in (None, container.account):
        raise UsageError(
            f"the URI names the storage account {container.account}, and the credentials given are for "
            f"{options.account_name}: they would be sent to the wrong one",
            uri=container.root,
        )
    account = container.account or options.account_name
    endpoint = options.endpoint or container.endpoint
    if endpoint is None:
        if account is None:
            raise UsageError(
                f"{container.root} does not say which storage account it belongs to: give "
                'storage_options={"account_name": ...}, set AZURE_STORAGE_ACCOUNT_NAME, or write '
                f"abfss://{container.name}@ACCOUNT.dfs.core.windows.net/..."
            )
        endpoint = f"https://{account}.blob.core.windows.net"
    return f"{endpoint.rstrip('/')}/{container.name}"


def account_of(endpoint: str) -> str:
    """The account that an endpoint names, in its path (an emulator's) or its host."""
    parts = urlsplit(endpoint)
    return parts.path.strip("/").partition("/")[0] or (parts.hostname or "").partition(".")[0]
