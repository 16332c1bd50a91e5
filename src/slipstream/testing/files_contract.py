"""What every source must do with files that are no checkpoints: read, stream ranges of, list and pull them.

`SourceContract` inherits `FilesContract`, and `ListingContract` inherits `TreeContract`; see `source_contract`.
"""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

import slipstream
from slipstream import ByteRange, Progress
from slipstream.testing.source_places import CHUNK_BYTES, ListedPlace, Loading, Place

AWKWARD_NAMES = (
    "with space.safetensors",
    "a+b.safetensors",
    "Gewicht-ü-ключ-重み.safetensors",
    "100%.safetensors",
    "a%20b%2Fc.safetensors",
    "a#b.safetensors",
    "a&b=c;d.safetensors",
    "it's (1) !@$,~^.safetensors",
    'quoted"<>.safetensors',
)


class ContractFixtures:
    """What the suites share. A subclass of theirs overrides `place`."""

    @pytest.fixture
    def place(self) -> Place:
        """Where the blobs are. Must be overridden."""
        raise NotImplementedError("override the fixture `place`")

    @pytest.fixture
    def loading(self, place: Place) -> Loading:
        """Loads from the place."""
        return Loading(place)

    @pytest.fixture
    def folder(self) -> str:
        """A prefix that no other test uses, without a slash at its end."""
        return f"contract-{secrets.token_hex(6)}"


class FilesContract(ContractFixtures):
    """Single blobs of any kind."""

    @pytest.mark.parametrize("size", [0, 1, 5000, 300_001])
    def test_read_file(self, place: Place, folder: str, size: int) -> None:
        """A blob that is read as a whole is its bytes, few or many or none."""
        data = put_bytes(place, f"{folder}/config.json", size)
        found = slipstream.read_file(place.uri(f"{folder}/config.json"), storage_options=place.storage_options)
        assert found == data

    def test_read_file_that_is_missing(self, place: Place, folder: str) -> None:
        """One that is not there is a BlobNotFoundError with its URI."""
        place.put(f"{folder}/other.txt", b"x")
        uri = place.uri(f"{folder}/config.json")
        with pytest.raises(slipstream.BlobNotFoundError) as caught:
            slipstream.read_file(uri, storage_options=place.storage_options)
        assert caught.value.uri == uri

    @pytest.mark.parametrize("memory_limit", [None, 200_000])
    def test_ranges(self, place: Place, folder: str, memory_limit: int | None) -> None:
        """Ranges of several blobs come whole, though they overlap, repeat, touch, or are empty."""
        uris = [place.uri(f"{folder}/{number}.bin") for number in range(2)]
        contents = [put_bytes(place, f"{folder}/{number}.bin", 300_001) for number in range(2)]
        spans = [(0, 300_001), (7, 70_000), (70_000, 70_001), (7, 70_000), (50, 60_000), (9, 9), (300_000, 300_001)]
        spans = [(start, end) for start, end in spans if memory_limit is None or end - start <= memory_limit]
        ranges = [ByteRange(uri, *span) for uri in uris for span in spans]
        options = slipstream.Options(chunk_bytes=CHUNK_BYTES, memory_limit=memory_limit)
        found: dict[int, bytes] = {}
        with slipstream.stream_ranges(
            ranges, framework="numpy", options=options, storage_options=place.storage_options
        ) as arriving:
            for position, data in arriving:
                assert data.shape == (ranges[position].nbytes,)
                found[position] = np.asarray(data).tobytes()
                del data
        assert found == {
            position: contents[uris.index(uri)][start:end] for position, (uri, start, end) in enumerate(ranges)
        }

    def test_range_beyond_the_end(self, place: Place, folder: str) -> None:
        """A range that reaches beyond its blob is a UsageError before any is read."""
        put_bytes(place, f"{folder}/a.bin", 100)
        uri = place.uri(f"{folder}/a.bin")
        with pytest.raises(slipstream.UsageError) as caught:
            slipstream.stream_ranges(
                [ByteRange(uri, 0, 100), ByteRange(uri, 90, 101)], storage_options=place.storage_options
            )
        assert (caught.value.uri, caught.value.offset, caught.value.length) == (uri, 90, 11)

    @pytest.mark.parametrize("name", AWKWARD_NAMES)
    def test_pull_a_blob(self, place: Place, folder: str, name: str, tmp_path: Path) -> None:
        """A blob becomes a file of its name, whatever characters that has."""
        data = put_bytes(place, f"{folder}/{name}", 200_000)
        [path] = pull(place, place.uri(f"{folder}/{name}"), tmp_path / "to")
        assert path == tmp_path / "to" / name
        assert path.read_bytes() == data

    def test_pull_again(self, place: Place, folder: str, tmp_path: Path) -> None:
        """A file that is there is not fetched again; once the blob is another one, it is."""
        put_bytes(place, f"{folder}/a.bin", 200_000)
        uri = place.uri(f"{folder}/a.bin")
        pull(place, uri, tmp_path)
        reports: list[Progress] = []
        [path] = pull(place, uri, tmp_path, reports)
        assert [(report.bytes_total, report.tensors_total) for report in reports] == [(0, 0)]
        data = put_bytes(place, f"{folder}/a.bin", 250_000)
        assert pull(place, uri, tmp_path) == (path,)
        assert path.read_bytes() == data


class TreeContract(ContractFixtures):
    """Whole prefixes, for a source that can list. Its `place` is a ListedPlace."""

    NAMES = ("a.json", "b/c.bin", "b/d e/+f.bin", "empty.txt", "z.safetensors")

    def put_tree(self, place: Place, folder: str) -> dict[str, bytes]:
        """Stores files under a prefix, and others beside it."""
        put_bytes(place, f"{folder}-2/a.json", 9)
        put_bytes(place, f"{folder}.json", 9)
        return {
            name: put_bytes(place, f"{folder}/{name}", 0 if "empty" in name else 1000 * (number + 1))
            for number, name in enumerate(self.NAMES)
        }

    @pytest.mark.parametrize("slash", ["", "/"])
    def test_list_files(self, place: ListedPlace, folder: str, slash: str) -> None:
        """A prefix has all that lies under it, in folders too, and nothing that lies beside it."""
        contents = self.put_tree(place, folder)
        blobs = list_files(place, place.uri(folder + "/").removesuffix("/") + slash)
        assert [blob.uri for blob in blobs] == sorted(place.uri(f"{folder}/{name}") for name in contents)
        assert {blob.uri: blob.size for blob in blobs} == {
            place.uri(f"{folder}/{name}"): len(data) for name, data in contents.items()
        }
        assert all(blob.etag for blob in blobs)

    def test_list_files_directly_under(self, place: ListedPlace, folder: str) -> None:
        """Without `recursive` it has what lies directly under it."""
        self.put_tree(place, folder)
        assert names_of(list_files(place, place.uri(folder + "/"), recursive=False), place, folder) == [
            "a.json",
            "empty.txt",
            "z.safetensors",
        ]

    def test_list_files_by_patterns(self, place: ListedPlace, folder: str) -> None:
        """Patterns are of the path under the prefix; what matches `ignore` is left out whatever `allow` says."""
        self.put_tree(place, folder)
        for allow, ignore, found in (
            ("*.json", None, ["a.json"]),
            (["b/*", "*.txt"], None, ["b/c.bin", "b/d e/+f.bin", "empty.txt"]),
            (None, ["*.bin", "*.safetensors"], ["a.json", "empty.txt"]),
            ("b*", "*f.bin", ["b/c.bin"]),
            ("contract-*", None, []),
            ([], None, []),
        ):
            blobs = list_files(place, place.uri(folder + "/"), allow=allow, ignore=ignore)
            assert names_of(blobs, place, folder) == found

    def test_list_a_blob(self, place: ListedPlace, folder: str) -> None:
        """The URI of a blob is that blob alone."""
        put_bytes(place, f"{folder}/a.json", 5)
        put_bytes(place, f"{folder}/a.json.bak", 5)
        uri = place.uri(f"{folder}/a.json")
        assert [(blob.uri, blob.size) for blob in list_files(place, uri)] == [(uri, 5)]

    def test_list_what_is_not_there(self, place: ListedPlace, folder: str, tmp_path: Path) -> None:
        """A prefix or blob that is not there is a BlobNotFoundError; a pull of it makes no directory."""
        put_bytes(place, f"{folder}/a.json", 5)
        for key in (f"{folder}/b", f"{folder}/b/", f"{folder}/a.jso"):
            with pytest.raises(slipstream.BlobNotFoundError):
                list_files(place, place.uri(key))
            with pytest.raises(slipstream.BlobNotFoundError):
                pull(place, place.uri(key), tmp_path / "to")
        assert not (tmp_path / "to").exists()

    def test_pull_a_tree(self, place: ListedPlace, folder: str, tmp_path: Path) -> None:
        """A prefix becomes a directory of the same files; of a second pull, only what has changed is fetched."""
        contents = self.put_tree(place, folder)
        uri = place.uri(folder + "/")
        paths = pull(place, uri, tmp_path / "to")
        assert paths == tuple(sorted(tmp_path / "to" / name for name in contents))
        assert {os.fspath(path.relative_to(tmp_path / "to")): path.read_bytes() for path in paths} == contents
        contents["b/c.bin"] = put_bytes(place, f"{folder}/b/c.bin", 1234)
        reports: list[Progress] = []
        assert pull(place, uri, tmp_path / "to", reports) == paths
        assert (reports[-1].bytes_total, reports[-1].tensors_total) == (1234, 1)
        assert {os.fspath(path.relative_to(tmp_path / "to")): path.read_bytes() for path in paths} == contents


def put_bytes(place: Place, key: str, size: int) -> bytes:
    """Stores so many random bytes."""
    data = random.randbytes(size)
    place.put(key, data)
    return data


def list_files(
    place: Place,
    uri: str,
    *,
    recursive: bool = True,
    allow: str | list[str] | None = None,
    ignore: str | list[str] | None = None,
) -> tuple[slipstream.Blob, ...]:
    """Lists with the options of the place."""
    return slipstream.list_files(
        uri, recursive=recursive, allow=allow, ignore=ignore, storage_options=place.storage_options
    )


def names_of(blobs: Iterable[slipstream.Blob], place: Place, folder: str) -> list[str]:
    """Their paths under the folder."""
    return [blob.uri.removeprefix(place.uri(f"{folder}/")) for blob in blobs]


def pull(place: Place, uri: str, directory: Path, reports: list[Progress] | None = None) -> tuple[Path, ...]:
    """Pulls with the options of the place, in small ranges."""
    return slipstream.pull(
        uri,
        directory,
        options=slipstream.Options(chunk_bytes=CHUNK_BYTES),
        storage_options=place.storage_options,
        progress=False if reports is None else reports.append,
    )
