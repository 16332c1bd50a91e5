"""Where a model lies: which files are there, and the small ones of them, where transformers can read them.

    /models/llama        its own directory is handed to transformers
    s3://models/llama    is listed; config.json and its like are fetched
    https://...          cannot be listed; files are asked for by their names

What is fetched stays in memory, and lies in a temporary directory only while transformers reads it.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote, unquote, urlsplit

import slipstream
from slipstream.errors import AccessDeniedError, BlobNotFoundError, SlipstreamError, UsageError
from slipstream.options import Options

Uri: TypeAlias = str | os.PathLike[str]
StorageOptions: TypeAlias = Mapping[str, object]

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
ADAPTER_CONFIG = "adapter_config.json"

_SMALL_FILES = (CONFIG, GENERATION_CONFIG, ADAPTER_CONFIG)
_SMALL_FILE = re.compile(r"(config|generation_config|adapter_config)(\.[\w.-]+)?\.json")  # also config.4.5.0.json
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_WEB = ("http", "https")


@dataclass(frozen=True)
class Place:
    """A directory or prefix that holds a model or an adapter.

    Attributes:
        uri: its address, with whatever signature or login the caller gave it. Not for people.
        shown: the same without these, for texts.
        name: likewise of what the caller gave, without a subfolder: the `name_or_path` of a model.
        names: the files directly in it; None where they cannot be listed.
        directory: itself, if it is local.
        small_files: the contents of its config files, if it is not.
        refused: why a file of these could not be read.
        options, storage_options: how it is reached.
    """

    uri: str = field(repr=False)
    shown: str
    name: str
    names: frozenset[str] | None
    directory: Path | None
    small_files: Mapping[str, bytes] = field(repr=False)
    refused: Mapping[str, SlipstreamError]
    options: Options | None
    storage_options: StorageOptions | None = field(repr=False)

    def has(self, name: str) -> bool:
        """Whether one of the config files is there."""
        return name in self.small_files or (self.names is not None and name in self.names)

    def find(self, name: str) -> str:
        """The address of a file in it."""
        return join_uri(self.uri, name)

    def require(self, name: str, advice: str) -> None:
        """
        Raises:
            BlobNotFoundError: it has no config file of this name.
            AccessDeniedError: it may not be read.
        """
        if name in self.refused:
            raise self.refused[name]
        if not self.has(name):
            there = "" if self.names is None else f"; it holds {list_some(self.names)}"
            raise BlobNotFoundError(f"{self.shown} has no {name}{there}: {advice}", uri=self.shown)

    @contextmanager
    def as_directory(self, *, code: bool = False) -> Iterator[Path]:
        """A local directory with the config files, for as long as the `with` block lasts.

        Args:
            code: whether Python files are to be there too.
        """
        if self.directory is not None:
            yield self.directory
            return
        with tempfile.TemporaryDirectory(prefix="slipstream-") as temporary:
            directory = Path(temporary, self._folder_name())
            directory.mkdir()
            for name, content in self.small_files.items():
                (directory / name).write_bytes(content)
            if code:
                self._pull_code(directory)
            try:
                yield directory
            except Exception as error:
                if temporary in str(error):
                    error.add_note(f"{directory} was a copy of the config files of {self.shown}")
                raise

    def _folder_name(self) -> str:
        """That of the place: transformers names by it the modules that it makes of a model's own code."""
        last = urlsplit(self.shown).path.rstrip("/").rpartition("/")[2]
        return re.sub(r"\W", "_", last)[:100] or "model"

    def _pull_code(self, directory: Path) -> None:
        if self.names is None:
            raise UsageError(
                f"{self.shown} cannot be listed, so its code cannot be found: copy the model's small files into a "
                "directory, and give that as the URI and the rest as weights=",
                uri=self.shown,
            )
        slipstream.pull(self.uri, directory, allow="*.py", options=self.options, storage_options=self.storage_options)


def open_place(uri: Uri, subfolder: str, options: Options | None, storage_options: StorageOptions | None) -> Place:
    """Looks what is there, and fetches the config files.

    Args:
        uri: a directory or prefix.
        subfolder: of it; empty for itself.
        options, storage_options: as in `slipstream.stream`.

    Raises:
        UsageError: not one directory or prefix.
        BlobNotFoundError, AccessDeniedError, ReadError: it is not there, or cannot be read.
    """
    text = os.fspath(uri) if isinstance(uri, str | os.PathLike) else None
    if not isinstance(text, str) or not text:
        raise UsageError(f"{uri!r} is no URI: give one directory or prefix, such as s3://models/llama/")
    name = show_uri(text)
    if subfolder:
        text = join_uri(text, subfolder)
    scheme = _scheme(text)
    if scheme in ("", "file"):
        return _open_directory(text, name, options, storage_options)
    if scheme in _WEB:
        names, wanted = None, list(_SMALL_FILES)
    else:
        names = _list_names(text, options, storage_options)
        wanted = sorted(filter(_SMALL_FILE.fullmatch, names))
    contents, refused = _read_all(text, wanted, options, storage_options)
    return Place(text, show_uri(text), name, names, None, contents, refused, options, storage_options)


def join_uri(uri: str, name: str) -> str:
    """The address of what has this name in a directory or prefix."""
    if _scheme(uri) not in _WEB:
        return f"{uri.rstrip('/')}/{name.strip('/')}"
    parts = urlsplit(uri)
    return parts._replace(path=f"{parts.path.rstrip('/')}/{quote(name.strip('/'))}").geturl()


def show_uri(uri: str) -> str:
    """A URI without a signature or a login: what may be seen of it."""
    if _scheme(uri) not in _WEB:
        return uri
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def list_some(names: frozenset[str]) -> str:
    """Some names for a text."""
    some = sorted(names)[:8]
    more = f" and {len(names) - len(some)} more" if len(names) > len(some) else ""
    return (", ".join(some) or "no file") + more


def _scheme(uri: str) -> str:
    found = _SCHEME.match(uri)
    return found[1].lower() if found else ""


def _open_directory(text: str, name: str, options: Options | None, storage_options: StorageOptions | None) -> Place:
    path = unquote(urlsplit(text).path) if _scheme(text) else os.path.expanduser(text)
    if os.path.isfile(path):
        raise UsageError(
            f"{text} is a file: give the directory of the model, or the file as weights= beside it", uri=text
        )
    if not os.path.isdir(path):
        raise BlobNotFoundError(
            f"{text} is no directory: give a path, or a URI such as s3://models/llama/. A model of the Hugging Face "
            "hub is to be downloaded first (hf download), or loaded by transformers itself",
            uri=text,
        )
    try:
        names = frozenset(os.listdir(path))
    except PermissionError as error:
        raise AccessDeniedError(f"{path} may not be listed by this user: check its permissions", uri=path) from error
    return Place(path, text, name, names, Path(path), {}, {}, options, storage_options)


def _list_names(uri: str, options: Options | None, storage_options: StorageOptions | None) -> frozenset[str]:
    blobs = slipstream.list_files(uri, recursive=False, options=options, storage_options=storage_options)
    if [_without_scheme(blob.uri) for blob in blobs] == [_without_scheme(uri)]:
        raise UsageError(f"{uri} is one object: give the prefix of the model, or it as weights= beside that", uri=uri)
    return frozenset(blob.uri.rpartition("/")[2] for blob in blobs)


def _without_scheme(uri: str) -> str:
    return uri.partition("://")[2]


def _read_all(
    uri: str, names: Sequence[str], options: Options | None, storage_options: StorageOptions | None
) -> tuple[dict[str, bytes], dict[str, SlipstreamError]]:
    """The contents of those files that are there, all at once; and why others could not be read.

    Of a place that cannot be listed, a file that is refused may well be one that does not exist: stores answer so to
    those who may not list.
    """
    contents: dict[str, bytes] = {}
    refused: dict[str, SlipstreamError] = {}

    def read(name: str) -> None:
        try:
            address = join_uri(uri, name)
            contents[name] = slipstream.read_file(address, options=options, storage_options=storage_options)
        except BlobNotFoundError:
            pass
        except AccessDeniedError as error:
            refused[name] = error

    if names:
        with ThreadPoolExecutor(len(names), thread_name_prefix="slipstream-config") as threads:
            list(threads.map(read, names))
    return contents, refused
