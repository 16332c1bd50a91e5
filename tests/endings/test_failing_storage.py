"""A disk that fails in mid-stream: one error that says where, and nothing left, also while the error is held."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

import slipstream
from slipstream.testing.faulty_fs import FaultyFs
from slipstream.types import Strategy
from tests.endings.conftest import Sample
from tests.endings.sample import BIG_BYTES, as_bytes

Look = Callable[..., None]


def bad_offset(sample: Sample) -> int:
    """Where the disk goes bad: inside the fifth of the twelve large tensors."""
    return slipstream.inspect(sample.path).by_name["big.04"].start + BIG_BYTES // 3


def test_failing_disk(
    fuse_sample: Sample, faulty_fs: FaultyFs, options: slipstream.Options, nothing_left: Look
) -> None:
    """EIO in mid-stream is a ReadError with the file, a range that holds bad bytes, and the system's words for it."""
    bad = bad_offset(fuse_sample)
    faulty_fs.fail_from(bad)
    with (
        pytest.raises(slipstream.ReadError, match=r"Input/output error \(EIO\)") as caught,
        slipstream.stream(fuse_sample.path, framework="numpy", options=options) as tensors,
    ):
        as_bytes(tensors)
    nothing_left()  # the error, its causes and its traceback are still held
    error = caught.value
    assert error.uri == str(fuse_sample.path)
    assert error.offset is not None
    assert error.length is not None
    assert 0 < error.length <= options.chunk_bytes
    assert error.offset + error.length > bad
    assert f"at offset {error.offset}, length {error.length}" in str(error)
    assert isinstance(error.__cause__, OSError)
    assert error.__cause__.errno == errno.EIO


def test_errno_of_the_error(fuse_sample: Sample, faulty_fs: FaultyFs, options: slipstream.Options) -> None:
    """A ReadError is an OSError, so its errno tells what the system answered."""
    faulty_fs.fail_from(bad_offset(fuse_sample))
    with pytest.raises(OSError) as caught:  # noqa: PT011
        slipstream.load(fuse_sample.path, framework="numpy", options=options)
    assert caught.value.errno == errno.EIO


@pytest.mark.parametrize("number", [errno.ENXIO, errno.ESTALE, errno.ETIMEDOUT], ids=errno.errorcode.get)
def test_other_failures(
    fuse_sample: Sample, faulty_fs: FaultyFs, options: slipstream.Options, nothing_left: Look, number: int
) -> None:
    """A device that is gone, a stale NFS handle, a time-out: each is a ReadError that names it.

    What reaches a reader through the page cache may be EIO instead: the kernel keeps no other reason there.
    """
    faulty_fs.fail_from(bad_offset(fuse_sample), number)
    with pytest.raises(slipstream.ReadError, match=f"{errno.errorcode[number]}|EIO"):
        slipstream.load(fuse_sample.path, framework="numpy", options=options)
    nothing_left()


def test_what_came_before_the_failure(
    fuse_sample: Sample, faulty_fs: FaultyFs, strategy: Strategy, nothing_left: Look
) -> None:
    """Tensors that were delivered before the disk failed are whole, and stay so after the error."""
    faulty_fs.fail_from(bad_offset(fuse_sample))
    one_by_one = slipstream.Options(strategy=strategy, concurrency=1, chunk_bytes=4096)
    tensors = slipstream.stream(fuse_sample.path, framework="numpy", options=one_by_one)
    name, kept = next(tensors)
    with pytest.raises(slipstream.ReadError):
        as_bytes(tensors)
    assert kept.tobytes() == fuse_sample.contents[name]  # type: ignore[union-attr]
    nothing_left("mappings", "reserved_kib")


def test_raised_once(fuse_sample: Sample, faulty_fs: FaultyFs, options: slipstream.Options) -> None:
    """The error is raised by one next(); after it the stream is closed."""
    faulty_fs.fail_from(bad_offset(fuse_sample))
    with slipstream.stream(fuse_sample.path, framework="numpy", options=options) as tensors:
        with pytest.raises(slipstream.ReadError):
            as_bytes(tensors)
        for _ in range(2):
            with pytest.raises(slipstream.StreamClosedError):
                next(tensors)
        assert "closed" in repr(tensors)


def test_other_failures_are_notes(
    fuse_sample: Sample, faulty_fs: FaultyFs, options: slipstream.Options, nothing_left: Look
) -> None:
    """Of several reads that fail at once the first is raised, and the others are its notes."""
    bad = bad_offset(fuse_sample)
    faulty_fs.hold_from(bad)
    tensors = slipstream.stream(fuse_sample.path, framework="numpy", options=options)
    faulty_fs.wait_held(2)
    faulty_fs.fail_from(bad)
    faulty_fs.release()
    with pytest.raises(slipstream.ReadError) as caught:
        as_bytes(tensors)
    notes = getattr(caught.value, "__notes__", [])
    assert notes
    assert all("another read failed too" in note and str(fuse_sample.path) in note for note in notes)
    nothing_left()


def test_failing_header(
    fuse_sample: Sample, faulty_fs: FaultyFs, options: slipstream.Options, nothing_left: Look
) -> None:
    """A disk that cannot give the header is a ReadError of the call itself."""
    faulty_fs.fail_from(0)
    with pytest.raises(slipstream.ReadError, match="EIO") as caught:
        slipstream.stream(fuse_sample.path, framework="numpy", options=options)
    assert (caught.value.uri, caught.value.offset) == (str(fuse_sample.path), 0)
    nothing_left()


def test_unread_tensors_may_be_bad(fuse_sample: Sample, faulty_fs: FaultyFs, options: slipstream.Options) -> None:
    """A selection that has no bad bytes is not harmed by those of other tensors."""
    faulty_fs.fail_from(bad_offset(fuse_sample))
    found = slipstream.load(fuse_sample.path, framework="numpy", options=options, names=["big.00", "small.02.*"])
    assert as_bytes(found.items()) == {name: fuse_sample.contents[name] for name in found}
    assert len(found) == 4


@pytest.mark.parametrize("missing", [1, 5000, BIG_BYTES])
def test_shorter_than_promised(
    fuse_sample: Sample, faulty_fs: FaultyFs, options: slipstream.Options, nothing_left: Look, missing: int
) -> None:
    """A file system that promises more bytes than it has causes an error, never zeros in a tensor.

    Either the read that ends early says so, or the size that the kernel corrects on that occasion.
    """
    size = fuse_sample.source.stat().st_size
    with open(fuse_sample.source, "r+b") as file:
        file.truncate(size - missing)
    faulty_fs.promise(missing)
    with pytest.raises(slipstream.ReadError, match=r"truncated|changed") as caught:
        slipstream.load(fuse_sample.path, framework="numpy", options=options)
    nothing_left()
    if not isinstance(caught.value, slipstream.BlobChangedError):
        assert caught.value.offset is not None
        assert caught.value.length is not None
        assert caught.value.offset + caught.value.length > size - missing
