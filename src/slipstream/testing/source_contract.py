"""What every source must do, as a suite that a new one's tests inherit. Needs pytest and safetensors.

    class TestMyStore(SourceContract, ListingContract):
        @pytest.fixture
        def place(self) -> Place:
            return MyPlace(...)

Each test puts blobs into the place and loads them through the public API, so the contract holds for the source and all
that is behind it. A source that can list adds `ListingContract`; where somebody counts what is read, `HeadersContract`.
The suites inherit what they hold of files that are no checkpoints from `files_contract`. Before the import,
`pytest.register_assert_rewrite("slipstream.testing.source_contract", "slipstream.testing.files_contract")` has pytest
show what differs.
"""

from __future__ import annotations

import fnmatch
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import slipstream
from slipstream.testing.files_contract import AWKWARD_NAMES, ContractFixtures, FilesContract, TreeContract
from slipstream.testing.process_watch import reading_threads, run_in_child, see_descriptors, wait_for
from slipstream.testing.source_places import (
    CHUNK_BYTES,
    CountingPlace,
    ListedPlace,
    Loaded,
    Loading,
    Place,
    all_of,
    as_loaded,
    make_blob,
    make_index,
    make_numbered,
    make_sample,
    put_sample,
    put_sharded,
)
from slipstream.types import Dtype

_HEADER_BYTES = 320 << 10  # a first look at a blob, and some


class SourceContract(FilesContract):
    """Blobs by their URIs, alone, in lists and through an index."""

    def test_blob(self, place: Place, loading: Loading, folder: str) -> None:
        """A blob gives, tensor for tensor, what the reference reader finds in it."""
        sample = put_sample(place, f"{folder}/model.safetensors", 1)
        assert loading.load(place.uri(f"{folder}/model.safetensors")) == sample.tensors

    def test_whole_load(self, place: Place, folder: str) -> None:
        """So it does when it is loaded as a whole, with the default options."""
        sample = put_sample(place, f"{folder}/model.safetensors", 1)
        found = slipstream.load(
            place.uri(f"{folder}/model.safetensors"), framework="numpy", storage_options=place.storage_options
        )
        assert as_loaded(found.items()) == sample.tensors

    def test_list_of_blobs(self, place: Place, loading: Loading, folder: str) -> None:
        """A list of blobs is one checkpoint."""
        samples = [put_sample(place, f"{folder}/{number}.safetensors", number) for number in range(3)]
        uris = [place.uri(f"{folder}/{number}.safetensors") for number in range(3)]
        assert loading.load(uris) == all_of(*samples)
        assert [blob.uri for blob in loading.inspect(uris).blobs] == uris

    def test_index(self, place: Place, loading: Loading, folder: str) -> None:
        """An index gives the tensors of the shards that it names, whatever their names."""
        uri, samples = put_sharded(place, folder, "a-1.safetensors", "a-2.safetensors")
        assert loading.load(uri) == all_of(*samples)

    def test_beside_local_files(self, place: Place, loading: Loading, folder: str, tmp_path: Path) -> None:
        """One call may name this source's blobs and local files."""
        sample = put_sample(place, f"{folder}/model.safetensors", 1)
        local = make_sample(2)
        (tmp_path / "local.safetensors").write_bytes(local.data)
        uris = [os.fspath(tmp_path / "local.safetensors"), place.uri(f"{folder}/model.safetensors")]
        assert loading.load(uris) == all_of(local, sample)

    def test_selection(self, place: Place, loading: Loading, folder: str) -> None:
        """`names=` gives the tensors that it asks for."""
        sample = put_sample(place, f"{folder}/model.safetensors", 1)
        uri = place.uri(f"{folder}/model.safetensors")
        for names in ("wide.*", "small.*", "scalar.1", "*empty*"):
            wanted = {name: tensor for name, tensor in sample.tensors.items() if fnmatch.fnmatchcase(name, names)}
            assert loading.load(uri, names) == wanted

    def test_memory_limit(self, place: Place, loading: Loading, folder: str) -> None:
        """Under a limit that holds a third of it, all tensors come, and the limit is kept."""
        uri, samples = put_sharded(place, folder, "1.safetensors", "2.safetensors", "3.safetensors")
        options = slipstream.Options(chunk_bytes=CHUNK_BYTES, memory_limit=320 << 10)
        with loading.stream(uri, options=options) as tensors:
            assert as_loaded(tensors) == all_of(*samples)
        assert tensors.stats().peak_buffer_bytes <= 320 << 10

    def test_sizes_etags_and_metadata(self, place: Place, loading: Loading, folder: str) -> None:
        """A blob's size is that of its bytes. Its ETag stays the same as long as the content does, and no longer."""
        sample = put_sample(place, f"{folder}/model.safetensors", 1)
        uri = place.uri(f"{folder}/model.safetensors")
        first, again = loading.inspect(uri), loading.inspect(uri)
        [blob] = first.blobs
        assert (blob.uri, blob.size) == (uri, len(sample.data))
        assert first.blobs == again.blobs
        assert first.metadata == ({"format": "pt"},)
        put_sample(place, f"{folder}/model.safetensors", 1, wide_nbytes=400_000)
        [other] = loading.inspect(uri).blobs
        assert other.size > blob.size
        assert blob.etag is None or other.etag != blob.etag

    @pytest.mark.parametrize("name", AWKWARD_NAMES)
    def test_awkward_name(self, place: Place, loading: Loading, folder: str, name: str) -> None:
        """A key may hold characters that URLs are made of, and others: by itself, and as an index names it."""
        sample = put_sample(place, f"{folder}/{name}", 1)
        assert loading.load(place.uri(f"{folder}/{name}")) == sample.tensors
        place.put(f"{folder}/model.safetensors.index.json", make_index({name: sample}))
        assert loading.load(place.uri(f"{folder}/model.safetensors.index.json")) == sample.tensors

    def test_missing_blob(self, place: Place, loading: Loading, folder: str) -> None:
        """A blob that is not there is a BlobNotFoundError with its URI, and with the server that was asked."""
        place.put(f"{folder}/other.txt", b"x")
        uri = place.uri(f"{folder}/missing.safetensors")
        for look in (loading.inspect, loading.load):
            with pytest.raises(slipstream.BlobNotFoundError) as caught:
                look(uri)
            assert caught.value.uri == uri
            assert caught.value.endpoint == place.endpoint
            assert caught.value.attempts == 1
            assert "missing.safetensors" in str(caught.value)

    def test_missing_shard(self, place: Place, loading: Loading, folder: str) -> None:
        """A shard that an index names and that is not there is a BlobNotFoundError with the shard's URI."""
        sample = put_sample(place, f"{folder}/1.safetensors", 1)
        place.put(
            f"{folder}/model.safetensors.index.json",
            make_index({"1.safetensors": sample, "gone.safetensors": make_sample(2)}),
        )
        with pytest.raises(slipstream.BlobNotFoundError) as caught:
            loading.load(place.uri(f"{folder}/model.safetensors.index.json"))
        assert caught.value.uri == place.uri(f"{folder}/gone.safetensors")

    @pytest.mark.parametrize("data", [b"", b"\x10", b"no safetensors at all", b"\xff" * 1000])
    def test_other_contents(self, place: Place, loading: Loading, folder: str, data: bytes) -> None:
        """What is no safetensors file, though it be empty, is a FormatError with its URI."""
        place.put(f"{folder}/model.safetensors", data)
        with pytest.raises(slipstream.FormatError) as caught:
            loading.load(place.uri(f"{folder}/model.safetensors"))
        assert caught.value.uri == place.uri(f"{folder}/model.safetensors")

    def test_truncated_blob(self, place: Place, loading: Loading, folder: str) -> None:
        """A blob whose upload was cut off is a FormatError before a tensor is read."""
        place.put(f"{folder}/model.safetensors", make_sample(1).data[:-1])
        with pytest.raises(slipstream.FormatError):
            loading.stream(place.uri(f"{folder}/model.safetensors"))

    def test_no_tensors(self, place: Place, loading: Loading, folder: str) -> None:
        """A file without tensors, or with empty ones only, is loaded as what it is."""
        for number, tensors in enumerate(({}, {"empty": (Dtype.F32, (0,), b"")})):
            sample = make_blob(tensors)
            place.put(f"{folder}/{number}.safetensors", sample.data)
            assert loading.load(place.uri(f"{folder}/{number}.safetensors")) == sample.tensors

    def test_replaced_before_it_is_read(self, place: Place, folder: str) -> None:
        """A blob that is replaced after its header was read, by one of the same size and layout, is a
        BlobChangedError."""
        key = f"{folder}/model.safetensors"
        place.put(key, make_numbered(1).data)
        new = [make_numbered(2).data]

        def replace(name: str) -> bool:
            """Called for each name between the header and the first read."""
            while new:
                place.put(key, new.pop())
            return True

        with pytest.raises(slipstream.BlobChangedError) as caught:
            slipstream.load(place.uri(key), framework="numpy", names=replace, storage_options=place.storage_options)
        assert caught.value.uri == place.uri(key)

    def test_replaced_while_it_is_loaded(self, place: Place, loading: Loading, folder: str) -> None:
        """A blob that is replaced is never a mixture: it is a BlobChangedError, or, where the source holds on to the
        old one as file systems do, the old one."""
        key = f"{folder}/model.safetensors"
        old, new = make_numbered(1), make_numbered(2)
        place.put(key, old.data)
        options = slipstream.Options(chunk_bytes=CHUNK_BYTES, concurrency=1, memory_limit=CHUNK_BYTES * 2)
        with loading.stream(place.uri(key), options=options) as tensors:
            found = as_loaded([next(tensors)])  # the limit keeps most of it from being read by now
            place.put(key, new.data)
            refusal = None
            try:
                found |= as_loaded(tensors)
            except slipstream.BlobChangedError as error:
                refusal = error
        assert found.items() <= old.tensors.items()
        if refusal is None:
            assert place.endpoint is None, "a server gave bytes of a blob that is not there any more"
            assert found == old.tensors
        else:
            assert refusal.uri == place.uri(key)
        assert loading.load(place.uri(key)) == new.tensors

    def test_many_threads(self, place: Place, loading: Loading, folder: str) -> None:
        """Loads in many threads do not disturb one another."""
        samples = [put_sample(place, f"{folder}/{number}.safetensors", number) for number in range(4)]

        def load(number: int) -> Loaded:
            return loading.load(place.uri(f"{folder}/{number % 4}.safetensors"))

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(load, range(16)))
        assert found == [samples[number % 4].tensors for number in range(16)]

    def test_consumer_that_walks_away(self, place: Place, loading: Loading, folder: str) -> None:
        """A stream that is left after its first tensor, or never asked for one, leaves no thread and no descriptor."""
        put_sample(place, f"{folder}/model.safetensors", 1, wide_nbytes=4 << 20)
        uri = place.uri(f"{folder}/model.safetensors")
        loading.load(uri)  # what is opened once and kept, is open by now
        before = see_descriptors()
        for tensors in (loading.stream(uri), loading.stream(uri)):
            next(tensors)
            tensors.close()
        with loading.stream(uri):
            pass
        wait_for(lambda: not reading_threads(), "threads go on reading")
        wait_for(lambda: see_descriptors() <= before, "descriptors are left open")

    def test_forked_child(self, place: Place, loading: Loading, folder: str) -> None:
        """A process that has loaded, and forks in the midst of another load, can load in the child, and go on."""
        uri, samples = put_sharded(place, folder, "1.safetensors", "2.safetensors")
        assert loading.load(uri) == all_of(*samples)
        with loading.stream(uri) as tensors:
            found = as_loaded([next(tensors)])

            def load() -> None:
                assert loading.load(uri) == all_of(*samples)

            assert run_in_child(load) == ""
            found |= as_loaded(tensors)
        assert found == all_of(*samples)


class ListingContract(TreeContract):
    """Prefixes and globs, for a source that can list. Its `place` is a ListedPlace."""

    @pytest.mark.parametrize("slash", ["", "/"])
    def test_prefix(self, place: ListedPlace, loading: Loading, folder: str, slash: str) -> None:
        """A prefix gives all its `*.safetensors` in the order of their names, and nothing else that lies there."""
        names = ("b.safetensors", "a.safetensors", "c 1.safetensors")
        samples = [put_sample(place, f"{folder}/{name}", number) for number, name in enumerate(names)]
        for other in ("notes.txt", "deeper/d.safetensors", "model.safetensors.bak"):
            put_sample(place, f"{folder}/{other}", 9)
        put_sample(place, f"{folder}-2/e.safetensors", 9)
        uri = place.uri(folder + "/").removesuffix("/") + slash
        assert loading.load(uri) == all_of(*samples)
        assert [blob.uri for blob in loading.inspect(uri).blobs] == [
            place.uri(f"{folder}/{name}") for name in sorted(names)
        ]

    def test_prefix_with_an_index(self, place: ListedPlace, loading: Loading, folder: str) -> None:
        """A prefix with an index gives what that names, and no other shard that lies there."""
        _, samples = put_sharded(place, folder, "1.safetensors", "2.safetensors")
        put_sample(place, f"{folder}/stray.safetensors", 9)
        assert loading.load(place.uri(folder + "/")) == all_of(*samples)

    def test_glob(self, place: ListedPlace, loading: Loading, folder: str) -> None:
        """A glob gives what matches it."""
        samples = [put_sample(place, f"{folder}/part-{number}.safetensors", number) for number in range(4)]
        for pattern, numbers in (("part-*", (0, 1, 2, 3)), ("part-[13].safetensors", (1, 3)), ("*-2.*", (2,))):
            uri = place.uri(folder + "/") + pattern
            assert loading.load(uri) == all_of(*(samples[number] for number in numbers))
        with pytest.raises(slipstream.BlobNotFoundError):
            loading.inspect(place.uri(folder + "/") + "none-*")

    @pytest.mark.parametrize("name", ["with space", "a+b%20c", "ü-ключ", "a#b&c=d"])
    def test_awkward_prefix(self, place: ListedPlace, loading: Loading, folder: str, name: str) -> None:
        """A prefix may hold characters that URLs are made of, and others."""
        sample = put_sample(place, f"{folder}/{name}/model.safetensors", 1)
        assert loading.load(place.uri(f"{folder}/{name}/")) == sample.tensors

    def test_missing_prefix(self, place: ListedPlace, loading: Loading, folder: str) -> None:
        """A prefix with nothing under it, or nothing that slipstream reads, is a BlobNotFoundError with its URI."""
        place.put(f"{folder}/there/notes.txt", b"x")
        for key in (f"{folder}/not-there/", f"{folder}/there/"):
            with pytest.raises(slipstream.BlobNotFoundError) as caught:
                loading.inspect(place.uri(key))
            assert caught.value.uri is not None
            assert caught.value.uri.rstrip("/") == place.uri(key).rstrip("/")

    def test_missing_container(self, place: ListedPlace, loading: Loading) -> None:
        """A bucket, container or directory that is not there is a BlobNotFoundError that names it."""
        uri = place.missing_container_uri()
        with pytest.raises(slipstream.BlobNotFoundError) as caught:
            loading.inspect(uri)
        assert uri.split("/")[2] in str(caught.value)


class HeadersContract(ContractFixtures):
    """What is read at all, where somebody counts it. Its `place` is a CountingPlace."""

    def test_inspecting_and_planning_read_headers(self, place: CountingPlace, loading: Loading, folder: str) -> None:
        """`inspect` and `plan` read the header and no more than a first look brings with it."""
        put_sample(place, f"{folder}/model.safetensors", 1, wide_nbytes=3 << 20)
        uri = place.uri(f"{folder}/model.safetensors")
        before = place.count_sent()
        loading.inspect(uri)
        assert 0 < place.count_sent() - before <= _HEADER_BYTES
        before = place.count_sent()
        slipstream.plan(uri, storage_options=place.storage_options)
        assert 0 < place.count_sent() - before <= _HEADER_BYTES

    def test_selection_reads_what_it_names(self, place: CountingPlace, loading: Loading, folder: str) -> None:
        """`names=` reads the header and the tensors that it asks for."""
        put_sample(place, f"{folder}/model.safetensors", 1, wide_nbytes=3 << 20)
        before = place.count_sent()
        loading.load(place.uri(f"{folder}/model.safetensors"), "brain.*")
        assert place.count_sent() - before <= _HEADER_BYTES + 64 * 33 * 2
