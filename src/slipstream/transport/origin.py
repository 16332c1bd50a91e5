"""Where a connection leads: a server, directly or through a proxy."""

from __future__ import annotations

import os
import ssl
from base64 import b64encode
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import SplitResult, quote, unquote, urlsplit

from slipstream.errors import UsageError
from slipstream.transport.access import Grant
from slipstream.transport.redaction import redact_url

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy. Its repr shows no password.

    Attributes:
        host: name or address.
        port: of TCP.
        authorization: the value of Proxy-Authorization, or empty.
    """

    host: str
    port: int
    authorization: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Origin:
    """What connections can be shared for.

    Attributes:
        scheme: "http" or "https".
        host: name or address, without brackets.
        port: of TCP.
        ca_bundle: whose certificates are trusted besides the system's.
        proxy: what is gone through, if anything.
    """

    scheme: str
    host: str
    port: int
    ca_bundle: str | None = None
    proxy: Proxy | None = None

    @property
    def host_header(self) -> str:
        """Host and port as a request names them: without a port that goes without saying."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        through = f" through the proxy {self.proxy.host}:{self.proxy.port}" if self.proxy else ""
        return f"{self.scheme}://{self.host_header}{through}"


def split_url(url: str, grant: Grant) -> tuple[Origin, str]:
    """Where a URL leads, and what a request to it asks for.

    Raises:
        UsageError: see `parse_url`, and of the proxy.
    """
    parts, host = parse_url(url)
    target = _target(parts)
    proxy = _find_proxy(parts, grant.proxy)
    return Origin(parts.scheme, host, parts.port or _PORTS[parts.scheme], grant.ca_bundle, proxy), target


def parse_url(url: str) -> tuple[SplitResult, str]:
    """A URL's parts, and its host as the resolver takes it.

    Raises:
        UsageError: it is no http or https URL, or holds a character that would end the request's line.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise UsageError(f"{redact_url(url)} is not a URL: its host or port is malformed") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise UsageError(f"{redact_url(url)} is not an http or https URL with a host")
    text = _target(parts) + parts.netloc
    if not _target(parts).isascii() or any(character <= " " for character in text):
        raise UsageError(f"{redact_url(url)} holds characters that a URL must percent-encode")
    try:
        return parts, parts.hostname.encode("idna").decode()
    except UnicodeError:
        pass
    raise UsageError(f"{redact_url(url)} has a host that is no valid name")


def _target(parts: SplitResult) -> str:
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    return f"{path}?{parts.query}" if parts.query else path


def _find_proxy(parts: SplitResult, asked: str | None) -> Proxy | None:
    """The proxy for a URL: the one asked for, else HTTPS_PROXY or HTTP_PROXY unless NO_PROXY names the host."""
    if asked is None and not any(name.lower().endswith("_proxy") for name in os.environ):
        return None
    from urllib.request import getproxies, proxy_bypass  # here, because it costs 10 ms, and few need it

    host = parts.netloc.rpartition("@")[2]
    proxies = getproxies()
    url = asked or (None if proxy_bypass(host) else proxies.get(parts.scheme) or proxies.get("all"))
    return None if not url else _parse_proxy(url)


@lru_cache
def _parse_proxy(url: str) -> Proxy:
    try:
        parts, host = parse_url(url if "://" in url else f"http://{url}")
    except UsageError:
        parts = None
    if parts is None or parts.scheme != "http":
        raise UsageError(f"the proxy {redact_url(url)} is not an http:// URL: slipstream speaks to HTTP proxies")
    login = parts.netloc.rpartition("@")[0]
    authorization = "Basic " + b64encode(unquote(login).encode()).decode() if login else ""
    return Proxy(host, parts.port or 80, authorization)


def tls_context(ca_bundle: str | None) -> ssl.SSLContext:
    """A context that trusts the system's authorities (SSL_CERT_FILE included) and those of a bundle.

    Made once for each combination, since reading the system's authorities takes 10 to 20 ms.

    Raises:
        UsageError: the bundle cannot be read.
    """
    return _make_context(ca_bundle, ssl.get_default_verify_paths())


@lru_cache
def _make_context(ca_bundle: str | None, system: ssl.DefaultVerifyPaths) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if ca_bundle is not None:
        try:
            context.load_verify_locations(ca_bundle)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(f"the CA bundle {ca_bundle} cannot be used: {error.strerror or error}") from error
    return context


# OpenSSL's locks inside a context may have been held by one of the parent's threads.
os.register_at_fork(after_in_child=_make_context.cache_clear)
