"""A container that can be asked: its credentials, its URL, and obstore's store for it, found once and kept."""

from __future__ import annotations

import os
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

from slipstream.errors import SlipstreamError, UsageError
from slipstream.sources import aws_credentials, azure_credentials, google_credentials
from slipstream.sources.credentials import Container, Credentials, cloud_variables, variable

if TYPE_CHECKING:
    from obstore.store import AzureStore, ClientConfig, GCSStore, RetryConfig, S3Store

    Store: TypeAlias = AzureStore | GCSStore | S3Store

# A refused port is given up after three more tries in about two seconds; one that takes the connection and is silent,
# after two tries in 17. Unmeasured against real clouds, whose own clients wait 5 to 60 seconds.
_CONNECT_S = 5
_SILENCE_S = 8
_WHOLE_ANSWER_S = 120
_TRIES_AGAIN = 3
_TRYING_S = 10
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 2

_KEPT = 32  # containers; more than one load names, fewer than a long-running server comes across


@dataclass(frozen=True)
class OpenContainer:
    """A container with what it takes to ask it. Its repr shows no secret.

    Attributes:
        container: which.
        credentials: what was found.
        url: of the container, without a slash at its end; blobs' plain URLs begin with it.
        ca_file: certificates that are trusted besides the system's.
        account: Azure's; empty for other kinds.
    """

    container: Container
    credentials: Credentials
    url: str = field(repr=False)
    ca_file: str | None
    _make_store: Callable[[], Store] = field(repr=False)
    account: str = ""

    @cached_property
    def store(self) -> Store:
        """obstore's; made when it is first used, so that nothing of obstore is touched where it is dead."""
        return self._make_store()

    @property
    def endpoint(self) -> str:
        """Scheme, host and port, for texts."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every value that no text may show."""
        return (*self.credentials.secrets, *self.container.options.secrets())


_lock = Lock()
_opened: OrderedDict[object, OpenContainer] = OrderedDict()
_inherited = False


def open_container(container: Container) -> OpenContainer:
    """Finds credentials and endpoint, or has them still. Makes no request of the store.

    They are looked for anew when the environment has changed, or after they have been refused.

    Raises:
        AccessDeniedError, MissingDependencyError, UsageError: see the credentials of each kind.
    """
    key = (container, cloud_variables())
    with _lock:
        found = _opened.get(key)
        if found is None:
            found = _opened[key] = _open(container)
            while len(_opened) > _KEPT:
                _opened.popitem(last=False)
        _opened.move_to_end(key)
        return found


def forget_container(refused: OpenContainer) -> None:
    """Has credentials that were refused looked for anew: a file or a login may have been mended since."""
    with _lock:
        for key in [key for key, found in _opened.items() if found is refused]:
            del _opened[key]


def obstore_is_dead() -> bool:
    """Whether this process was forked from one that had obstore: its threads, which do the asking, stayed there."""
    return _inherited


def _forget_after_fork() -> None:
    """In a new child nothing of the parent's is used, not even its lock, which a thread that is gone may hold."""
    global _lock, _opened, _inherited
    _lock, _opened = Lock(), OrderedDict()
    _inherited = _inherited or "obstore" in sys.modules


os.register_at_fork(after_in_child=_forget_after_fork)


def _open(container: Container) -> OpenContainer:
    try:
        return _OPENERS[container.kind](container)
    except SlipstreamError as error:
        error.uri = error.uri or container.root
        raise


def _open_s3(container: Container) -> OpenContainer:
    credentials = aws_credentials.find_aws_credentials(container)
    region = aws_credentials.find_region(container, credentials)
    url, virtual = aws_credentials.find_bucket_url(container, region)
    endpoint = url if virtual else url.removesuffix("/" + container.name)
    ca_file = container.options.ca_bundle or variable("AWS_CA_BUNDLE")
    config = {**credentials.config, "region": region, "endpoint": endpoint, "virtual_hosted_style_request": virtual}
    if variable("AWS_ENDPOINT_URL_S3"):
        config["aws_endpoint_url_s3"] = endpoint  # obstore would prefer the variable to `endpoint`

    def make_store() -> S3Store:
        from obstore.store import S3Store

        return S3Store(container.name, **_settings(container, credentials, config, url, ca_file))

    return _checked(OpenContainer(container, credentials, url, ca_file, make_store))


def _open_google(container: Container) -> OpenContainer:
    credentials = google_credentials.find_google_credentials(container)
    url = google_credentials.find_bucket_url(container, credentials)
    ca_file = container.options.ca_bundle
    config = {**credentials.config, "base_url": url.removesuffix("/" + container.name)}

    def make_store() -> GCSStore:
        from obstore.store import GCSStore

        return GCSStore(container.name, **_settings(container, credentials, config, url, ca_file))

    return _checked(OpenContainer(container, credentials, url, ca_file, make_store))


def _open_azure(container: Container) -> OpenContainer:
    url = azure_credentials.find_container_url(container)
    credentials = azure_credentials.find_azure_credentials(container)
    ca_file = container.options.ca_bundle
    endpoint = url.removesuffix("/" + container.name)
    account = container.account or container.options.account_name or azure_credentials.account_of(endpoint)
    config = {**credentials.config, "account_name": account, "endpoint": endpoint}

    def make_store() -> AzureStore:
        from obstore.store import AzureStore

        return AzureStore(container.name, **_settings(container, credentials, config, url, ca_file))

    return _checked(OpenContainer(container, credentials, url, ca_file, make_store, account))


_OPENERS: Mapping[str, Callable[[Container], OpenContainer]] = {
    "s3": _open_s3,
    "gs": _open_google,
    "az": _open_azure,
}


def _checked(opened: OpenContainer) -> OpenContainer:
    """Refuses an endpoint from the environment that is none; those in options have been checked."""
    parts = urlsplit(opened.url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            "the endpoint in the environment is not a URL; write for example https://storage.example.com:9000",
            uri=opened.container.root,
        )
    return opened


def _settings(
    container: Container, credentials: Credentials, config: Mapping[str, Any], url: str, ca_file: str | None
) -> dict[str, Any]:
    """What all stores of obstore are made with."""
    settings: dict[str, Any] = {
        "config": config,
        "client_options": _client_config(container, url, ca_file),
        "retry_config": _retry_config(),
    }
    if credentials.provider is not None:
        settings["credential_provider"] = credentials.provider
    return settings


def _client_config(container: Container, url: str, ca_file: str | None) -> ClientConfig:
    config: ClientConfig = {
        "allow_http": url.startswith("http:"),
        "connect_timeout": timedelta(seconds=_CONNECT_S),
        "read_timeout": timedelta(seconds=_SILENCE_S),
        "timeout": timedelta(seconds=_WHOLE_ANSWER_S),
    }
    if ca_file:
        config["root_certificate"] = _read_certificates(ca_file)
    if container.options.proxy:
        config["proxy_url"] = container.options.proxy
    if container.options.headers:
        config["default_headers"] = dict(container.options.headers)
    return config


def _retry_config() -> RetryConfig:
    return {
        "max_retries": _TRIES_AGAIN,
        "retry_timeout": timedelta(seconds=_TRYING_S),
        "backoff": {
            "init_backoff": timedelta(seconds=_FIRST_PAUSE_S),
            "max_backoff": timedelta(seconds=_LONGEST_PAUSE_S),
            "base": 2,
        },
    }


def _read_certificates(path: str) -> bytes:
    """The PEM certificates of a bundle.

    Raises:
        UsageError: the file cannot be read or holds none.
    """
    try:
        with open(os.path.expanduser(path), "rb") as file:
            content = file.read()
    except OSError as error:
        fault = f"cannot be read: {error.strerror}"
    else:
        if b"-----BEGIN" in content and b"CERTIFICATE-----" in content:
            return content
        fault = "holds no PEM certificate"
    raise UsageError(f"the CA bundle {path} {fault}; give a file of PEM certificates as ca_bundle")
