"""Blobs behind plain HTTP and HTTPS URLs: a file server, a CDN, a URL that somebody signed."""

from __future__ import annotations

from itertools import count
from threading import Lock
from urllib.parse import quote, urljoin, urlsplit

from slipstream.errors import ReadError, UsageError
from slipstream.sources.remote import RemoteReads, remote_facts
from slipstream.sources.shard_names import is_index
from slipstream.sources.storage_options import StorageOptions
from slipstream.transport.access import Grant, StoreKind
from slipstream.transport.advice import advise, find_fault
from slipstream.transport.client import RangeClient
from slipstream.transport.origin import parse_url
from slipstream.types import Blob, Listing, StorageFacts


class HttpSource:
    """Reads checkpoints from URLs. HTTP has no listings: a URL is a blob or a shard index.

    A URL's user information and query may be secrets (a password, a signature), so a blob's `uri` does not show them;
    the source remembers what they were.
    """

    def __init__(self, options: StorageOptions, client: RangeClient) -> None:
        self._options = options
        self._reads = RemoteReads(client)
        self._lock = Lock()
        self._urls: dict[str, str] = {}  # the URL to ask, by the URI to show

    def list_blobs(self, uri: str) -> Listing:
        """See Source."""
        blob = self.find_file(uri)
        return Listing(blob.uri, (), blob) if is_index(urlsplit(uri).path) else Listing(blob.uri, (blob,))

    def find_blob(self, listing: Listing, name: str) -> Blob:
        """See Source. A query of the index's URL is not passed on: a signature is for one blob."""
        assert listing.index is not None, "only a shard index names other blobs"
        shown = self._show(urljoin(self._urls[listing.index.uri].partition("?")[0], quote(name)))
        return self._reads.discover(self._access(shown))

    def find_file(self, uri: str) -> Blob:
        """See Source."""
        shown = self._show(uri)
        if urlsplit(uri).path.endswith("/"):
            raise UsageError(
                f"{shown} is a directory, and HTTP cannot list one: give the URL of its *.index.json or of its "
                "*.safetensors files",
                uri=shown,
            )
        return self._reads.discover(self._access(shown))

    def read_range(self, blob: Blob, start: int, end: int) -> bytes:
        """See Source."""
        return self._reads.read_range(self._access(blob.uri), blob, start, end)

    def see_facts(self, blob: Blob) -> StorageFacts:
        """See Source."""
        return remote_facts(self._access(blob.uri))

    def access(self, blob: Blob) -> HttpAccess:
        """See RemoteSource."""
        return self._access(blob.uri)

    def read_range_by_store(self, blob: Blob, start: int, end: int) -> bytes:
        """See RemoteSource."""
        raise ReadError(f"{blob.uri} can be read over HTTP only", uri=blob.uri, offset=start, length=end - start)

    def _access(self, shown: str) -> HttpAccess:
        return HttpAccess(shown, self._urls[shown], self._options)

    def _show(self, url: str) -> str:
        """The URI to show for a URL, another one for each: without user information, fragment and query."""
        url = url.partition("#")[0]
        parts, _ = parse_url(url)
        bare = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        with self._lock:
            for number in count(1):
                shown = bare + "?..." * bool(parts.query or number > 1) + str(number) * (number > 1)
                if self._urls.setdefault(shown, url) == url:
                    return shown
        raise AssertionError("numbers do not end")


class HttpAccess:
    """Grants what a URL and the options say, for ever. See BlobAccess."""

    def __init__(self, uri: str, url: str, options: StorageOptions) -> None:
        self.uri = uri
        parts = urlsplit(url)
        self.endpoint = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        headers = dict(options.headers)
        login = parts.netloc.rpartition("@")[0]
        if options.bearer_token is not None:
            headers["Authorization"] = f"Bearer {options.bearer_token}"
        elif login:
            headers["Authorization"] = _basic(login)
        url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        self._is_signed = bool(parts.query)
        self._grant = Grant(url, headers, ca_bundle=options.ca_bundle, proxy=options.proxy)

    @property
    def kind(self) -> StoreKind:
        """See BlobAccess."""
        return "http"

    def grant(self, refused: Grant | None = None) -> Grant:
        """See BlobAccess."""
        return self._grant

    def advise(self, status: int | None, code: str | None, region: str | None) -> str:
        """See BlobAccess."""
        if self._is_signed and find_fault(status, code) in ("denied", "expired", "signature"):
            return "make the signed URL anew: its time may be over, or it was not copied whole"
        return advise("http", status, code)


def _basic(login: str) -> str:
    """Source: RFC 7617."""
    from base64 import b64encode
    from urllib.parse import unquote

    user, _, password = login.partition(":")
    return "Basic " + b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
