"""What a container is asked besides plain reads: listings, signatures, and reads where no URL can be signed.

obstore does the asking. Its threads do not survive a fork, and in a child whose parent has used it a request would wait
for ever, also one of a store made anew. So such a child has a process of its own do the asking (store_process);
`ask` is the same to its callers in both.

What goes wrong is turned into one of the library's errors in whichever process it happens. What obstore raises may hold
URLs with signatures, so nothing of it is kept, neither as cause nor as context.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

from slipstream.errors import AccessDeniedError, SlipstreamError
from slipstream.sources.credentials import Container
from slipstream.sources.store_failures import explain_failure
from slipstream.sources.stores import OpenContainer, forget_container, obstore_is_dead, open_container

if TYPE_CHECKING:
    from slipstream.sources.store_process import StoreProcess


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One line of a listing."""

    key: str
    size: int
    etag: str | None


@dataclass(frozen=True, slots=True)
class PrefixListing:
    """What lies directly under a prefix: objects, and the names of further prefixes without a slash at their end."""

    objects: tuple[StoredObject, ...]
    prefixes: tuple[str, ...]


def list_prefix(container: Container, prefix: str) -> PrefixListing:
    """Lists what lies directly under a prefix, all pages of it.

    Raises:
        SlipstreamError: what the store or the network refused, in words; as all functions here.
    """
    listing: PrefixListing = _ask("list_prefix", container, prefix)
    return listing


def list_tree(container: Container, prefix: str) -> tuple[StoredObject, ...]:
    """Lists everything under a prefix, all pages of it."""
    objects: tuple[StoredObject, ...] = _ask("list_tree", container, prefix)
    return objects


def find_object(container: Container, key: str) -> StoredObject:
    """Size and ETag of one object, with a read of its first byte: the refusal of a HEAD request says nothing."""
    found: StoredObject = _ask("find_object", container, key)
    return found


def sign_url(container: Container, key: str, seconds: int) -> str:
    """A URL with which anyone may GET one object for some time."""
    url: str = _ask("sign_url", container, key, seconds)
    return url


def get_range(container: Container, key: str, start: int, end: int, etag: str | None) -> bytes:
    """The bytes `[start, end)` of one object, or what of them it has, if it still has this ETag."""
    data: bytes = _ask("get_range", container, key, start, end, etag)
    return data


def normalize_etag(etag: str | None) -> str | None:
    """The form in which If-Match takes it: in quotes. None for a weak one, which If-Match never accepts (RFC 9110)."""
    if not etag or etag.startswith("W/"):
        return None
    return etag if etag.startswith('"') else f'"{etag}"'


_processes: dict[int, StoreProcess] = {}


def _ask(request: str, container: Container, key: str, *arguments: object) -> Any:
    if not obstore_is_dead():
        return answer(request, container, key, *arguments)
    from slipstream.sources.store_process import StoreProcess

    process = _processes.get(os.getpid()) or _processes.setdefault(os.getpid(), StoreProcess())
    return process.ask(request, container, key, *arguments)


def answer(request: str, container: Container, key: str, *arguments: object) -> Any:
    """Answers one request in this process.

    Raises:
        SlipstreamError: see above.
    """
    opened = open_container(container)
    try:
        return _ANSWERS[request](opened, key, *arguments)
    except SlipstreamError as error:
        explained = error
    except Exception as error:
        explained = explain_failure(error, opened, key, _DONE[request])
    if isinstance(explained, AccessDeniedError):
        forget_container(opened)
    raise explained.with_traceback(None)


def _list_prefix(opened: OpenContainer, prefix: str) -> PrefixListing:
    import obstore

    found = obstore.list_with_delimiter(opened.store, prefix)
    names = tuple(path.rstrip("/").rpartition("/")[2] for path in found["common_prefixes"])
    return PrefixListing(tuple(map(_stored, found["objects"])), names)


def _list_tree(opened: OpenContainer, prefix: str) -> tuple[StoredObject, ...]:
    import obstore

    pages = obstore.list(opened.store, prefix, chunk_size=1000)
    return tuple(_stored(entry) for page in pages for entry in page)


def _find_object(opened: OpenContainer, key: str) -> StoredObject:
    import obstore

    return _stored(obstore.get(opened.store, key, options={"range": (0, 1)}).meta)


def _sign_url(opened: OpenContainer, key: str, seconds: int) -> str:
    import obstore

    return obstore.sign(opened.store, "GET", key, timedelta(seconds=seconds))


def _get_range(opened: OpenContainer, key: str, start: int, end: int, etag: str | None) -> bytes:
    import obstore

    return bytes(obstore.get(opened.store, key, options={"range": (start, end), "if_match": etag}).bytes())


def _stored(entry: Mapping[str, Any]) -> StoredObject:
    return StoredObject(entry["path"], entry["size"], normalize_etag(entry["e_tag"]))


_DONE = {
    "list_prefix": "listed",
    "list_tree": "listed",
    "find_object": "read",
    "sign_url": "signed for",
    "get_range": "read",
}
_Answer: TypeAlias = Callable[..., object]
_ANSWERS: Mapping[str, _Answer] = {
    "list_prefix": _list_prefix,
    "list_tree": _list_tree,
    "find_object": _find_object,
    "sign_url": _sign_url,
    "get_range": _get_range,
}
