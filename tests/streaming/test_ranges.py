"""Plain ranges: whatever is asked for comes, byte for byte, as memory of the caller's own."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any, cast

import numpy
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import slipstream
from slipstream import ByteRange, Options, Progress
from slipstream.testing.process_watch import reading_threads, run_in_child, see_descriptors, wait_for
from slipstream.testing.range_server import RangeServer

SIZE = 50_000
spans = st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)).map(lambda span: (min(span), max(span)))
near_spans = st.tuples(st.integers(0, 40), st.integers(0, 40)).map(lambda span: (min(span) * 1000, max(span) * 1000))


def content(number: int) -> bytes:
    return numpy.random.default_rng(number).bytes(SIZE)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three files of SIZE bytes, each with a content of its own."""
    folder = tmp_path_factory.mktemp("ranges")
    paths = [folder / f"{number}.bin" for number in range(3)]
    for number, path in enumerate(paths):
        path.write_bytes(content(number))
    return [str(path) for path in paths]


def read(ranges: list[ByteRange], **how: Any) -> dict[int, bytes]:
    """What comes, by position. Each is dropped at once."""
    found: dict[int, bytes] = {}
    with slipstream.stream_ranges(ranges, framework="numpy", **how) as arriving:
        for position, data in arriving:
            assert position not in found
            assert data.shape == (ranges[position].nbytes,)
            found[position] = numpy.asarray(data).tobytes()
            del data
    return found


def drop_all(arriving: slipstream.RangeStream) -> None:
    """Takes what comes, and drops it at once."""
    for _, data in arriving:
        del data


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    wanted=st.lists(st.tuples(st.integers(0, 2), st.one_of(spans, near_spans)), max_size=40),
    strategy=st.sampled_from(["mapped", "direct", "buffered"]),
    memory_limit=st.sampled_from([None, SIZE, 4 * SIZE]),
    chunk_bytes=st.sampled_from([4096, 1 << 20]),
)
def test_any_ranges(
    wanted: list[tuple[int, tuple[int, int]]],
    strategy: str,
    memory_limit: int | None,
    chunk_bytes: int,
    files: list[str],
) -> None:
    """Ranges in any order, that overlap, repeat, touch or are empty, come once each, and are what the files hold."""
    ranges = [ByteRange(files[number], *span) for number, span in wanted]
    options = Options(strategy=cast(Any, strategy), memory_limit=memory_limit, chunk_bytes=chunk_bytes)
    assert read(ranges, options=options) == {
        position: content(number)[start:end] for position, (number, (start, end)) in enumerate(wanted)
    }


def test_none_at_all() -> None:
    """No ranges are no load."""
    with slipstream.stream_ranges([]) as arriving:
        assert list(arriving) == []
    assert arriving.stats().tensors == 0


@pytest.mark.parametrize("framework", ["torch", "numpy"])
def test_kinds_of_tensors(framework: str, files: list[str]) -> None:
    """They are vectors of unsigned bytes of the framework; of nothing, an empty one."""
    kind, dtype = (torch.Tensor, torch.uint8) if framework == "torch" else (numpy.ndarray, numpy.dtype("u1"))
    with slipstream.stream_ranges(
        [ByteRange(files[0], 3, 10), ByteRange(files[0], 5, 5)], framework=cast(Any, framework)
    ) as arriving:
        found = dict(arriving)
    assert all(isinstance(data, kind) and data.dtype == dtype for data in found.values())
    assert [tuple(found[position].shape) for position in range(2)] == [(7,), (0,)]


def test_overlapping_ranges_share_no_memory(files: list[str]) -> None:
    """Whoever writes into one range changes no other that has the same bytes, nor the file."""
    for strategy in ("mapped", "direct", "buffered"):
        options = Options(strategy=cast(Any, strategy))
        ranges = [ByteRange(files[0], 0, 9000), ByteRange(files[0], 4000, 12_000), ByteRange(files[0], 0, 9000)]
        with slipstream.stream_ranges(ranges, framework="numpy", options=options) as arriving:
            found = dict(arriving)
        cast(Any, found[0])[:] = 0
        assert numpy.asarray(found[1]).tobytes() == content(0)[4000:12_000]
        assert numpy.asarray(found[2]).tobytes() == content(0)[:9000]
        assert Path(files[0]).read_bytes() == content(0)


def test_they_outlive_the_stream(files: list[str]) -> None:
    """A range that is held is valid when the stream is closed and everything else is gone."""
    with slipstream.stream_ranges([ByteRange(files[0], 10, 20_000)], framework="numpy") as arriving:
        [(_, data)] = arriving
    del arriving
    gc.collect()
    assert numpy.asarray(data).tobytes() == content(0)[10:20_000]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("a.bin", 5), r"range 0 is not \(uri, start, end\)"),
        (("a.bin", "0", 5), r"range 0 is not"),
        (("a.bin", 0.5, 5), r"range 0 is not"),
        ((7, 0, 5), r"range 0 is not"),
        (("", 0, 5), r"range 0 is not"),
        (None, r"range 0 is not"),
        (("a.bin", -1, 5), r"0 <= start <= end"),
        (("a.bin", 6, 5), r"0 <= start <= end"),
    ],
)
def test_what_is_no_range(given: object, says: str) -> None:
    """It is told by its position, before any file is looked at."""
    with pytest.raises(slipstream.UsageError, match=says):
        slipstream.stream_ranges([given])  # type: ignore[list-item]


def test_numbers_of_other_kinds(files: list[str]) -> None:
    """Whole numbers of NumPy are numbers too."""
    start, end = numpy.int64(3), numpy.uint32(9)
    assert read([ByteRange(files[0], cast(Any, start), cast(Any, end))]) == {0: content(0)[3:9]}


def test_a_range_larger_than_the_limit(files: list[str]) -> None:
    """A range that no limit can hold is a MemoryLimitError that speaks of ranges."""
    with pytest.raises(slipstream.MemoryLimitError, match=r"range 1 has 20,000 bytes.*cut the range"):
        slipstream.stream_ranges(
            [ByteRange(files[0], 0, 10), ByteRange(files[0], 0, 20_000)], options=Options(memory_limit=10_000)
        )


def test_a_directory_has_no_ranges(tmp_path: Path) -> None:
    """A directory, or what is not there, is told as what it is."""
    for path in (tmp_path, tmp_path / "gone"):
        with pytest.raises(slipstream.BlobNotFoundError):
            slipstream.stream_ranges([ByteRange(str(path), 0, 0)])


def test_stats_and_progress(files: list[str]) -> None:
    """Both count ranges; the plan's tensors are the ranges by their positions."""
    reports: list[Progress] = []
    ranges = [ByteRange(files[0], 0, 100), ByteRange(files[1], 50, 200), ByteRange(files[0], 0, 100)]
    with slipstream.stream_ranges(ranges, progress=reports.append) as arriving:
        assert repr(arriving) == "<RangeStream open: 0 of 3 ranges delivered>"
        assert {tensor.name for op in arriving.plan.ops for tensor in op.tensors} == {"0", "1", "2"}
        for _ in arriving:
            pass
    assert (arriving.stats().tensors, arriving.stats().bytes) == (3, 350)
    assert (reports[-1].tensors_total, reports[-1].bytes_total, reports[-1].bytes_read) == (3, 350, 350)


def test_neighbours_come_with_one_request(tmp_path: Path) -> None:
    """Ranges that touch are asked for together, those with a gap between apart, and a blob's size once."""
    with RangeServer(tmp_path) as server:
        server.put("a.bin", content(0))
        url = server.url("a.bin")
        ranges = [ByteRange(url, 200, 300), ByteRange(url, 100, 200), ByteRange(url, 0, 100), ByteRange(url, 400, 500)]
        assert read(ranges) == {position: content(0)[start:end] for position, (_, start, end) in enumerate(ranges)}
        asked = sorted(request.range for request in server.requests[1:] if request.range)
    assert asked == [(0, 300), (400, 500)]


def test_a_blob_that_changes(tmp_path: Path) -> None:
    """A blob that is replaced before it is read is an error and never a mixture."""
    with RangeServer(tmp_path) as server:
        server.put("a.bin", content(0))
        url = server.url("a.bin")
        options = Options(chunk_bytes=4096, concurrency=1, memory_limit=4096)
        ranges = [ByteRange(url, start, start + 4096) for start in range(0, SIZE - 4096, 4096)]
        with slipstream.stream_ranges(ranges, framework="numpy", options=options) as arriving:
            position, data = next(arriving)
            assert numpy.asarray(data).tobytes() == content(0)[position * 4096 : (position + 1) * 4096]
            server.put("a.bin", content(1))
            del data
            with pytest.raises(slipstream.BlobChangedError):
                drop_all(arriving)


def test_whoever_walks_away(tmp_path: Path) -> None:
    """A stream that is left leaves no thread and no descriptor, also one that is only forgotten."""
    with RangeServer(tmp_path) as server:
        server.put("a.bin", content(0))
        ranges = [ByteRange(server.url("a.bin"), start, start + 5000) for start in range(0, 45_000, 5000)]
        read(ranges)  # what is opened once and kept, is open by now
        before = see_descriptors()
        with slipstream.stream_ranges(ranges, framework="numpy") as arriving:
            next(arriving)
        with pytest.raises(slipstream.StreamClosedError):
            next(arriving)
        forgotten = slipstream.stream_ranges(ranges, framework="numpy")
        del forgotten
        gc.collect()
        wait_for(lambda: not reading_threads(), "threads go on reading")
        wait_for(lambda: see_descriptors() <= before, "descriptors are left open")


def test_a_forked_child(files: list[str]) -> None:
    """A child of a process that has read ranges can read others."""
    ranges = [ByteRange(files[0], 0, 100)]
    assert read(ranges) == {0: content(0)[:100]}

    def again() -> None:
        assert read(ranges) == {0: content(0)[:100]}

    assert run_in_child(again) == ""
