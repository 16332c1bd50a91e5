"""How these tests open a source, and what they do with its grants."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Mapping
from email.message import Message

from slipstream.options import Options
from slipstream.sources.object_store import ObjectStoreSource
from slipstream.sources.storage_options import parse_storage_options
from slipstream.transport.access import Grant, StoreKind
from slipstream.transport.client import RangeClient

clients: list[RangeClient] = []
"""Closed after each test by a fixture."""

# Straight to the server, whatever proxies the environment names.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def open_source(kind: StoreKind, options: Mapping[str, object]) -> ObjectStoreSource:
    """A source as one call would open it."""
    clients.append(RangeClient(Options()))
    return ObjectStoreSource(kind, parse_storage_options(options, kind), clients[-1])


def get_plainly(grant: Grant, headers: Mapping[str, str]) -> tuple[int, bytes, Message]:
    """What a plain GET with this grant brings, be it a refusal."""
    request = urllib.request.Request(grant.url, headers={**grant.headers, **headers})
    try:
        with _opener.open(request, timeout=10) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.read(), refusal.headers
