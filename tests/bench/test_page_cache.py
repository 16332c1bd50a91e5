"""The page cache before a sample: not assumed, but asked of the kernel."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from slipstream.bench import page_cache
from slipstream.bench.errors import SampleError
from slipstream.bench.page_cache import cached_bytes, make_cold, make_warm, resident_pages, settle_memory

SIZE = (1 << 20) + 5000  # one page and a part beyond a MiB
PAGES = -(-SIZE // mmap.PAGESIZE)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file whose pages the kernel can drop."""
    path = tmp_path / "file"
    path.write_bytes(os.urandom(SIZE))
    return path


def test_cold_and_warm(file: Path) -> None:
    """Nothing of a cold file is in the page cache, and all of a warm one, to the last page."""
    make_cold([file])
    assert cached_bytes([file]) == 0
    make_warm([file])
    assert cached_bytes([file]) == PAGES * mmap.PAGESIZE
    make_cold(path for path in [file])
    assert cached_bytes([file]) == 0


def test_counts_part_of_a_file(file: Path) -> None:
    """Both ways of asking count the pages that are there, and no others."""
    make_cold([file])
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)  # no reading ahead
        os.pread(descriptor, 1, 0)
        os.pread(descriptor, 1, SIZE - 1)
        assert cached_bytes([file]) == 2 * mmap.PAGESIZE
        assert resident_pages(descriptor) == 2
    finally:
        os.close(descriptor)


def test_refuses_a_file_that_stays(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages that a process has mapped cannot be dropped: no cold sample is taken of them."""
    monkeypatch.setattr(page_cache, "_DROP_CACHES", tmp_path / "none")  # which would cost others theirs
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert sum(mapped[:: mmap.PAGESIZE]) >= 0
        with pytest.raises(SampleError, match="stay in the page cache"):
            make_cold([file])
    make_cold([file])


def test_an_empty_file_is_cold_and_warm(tmp_path: Path) -> None:
    """A file without a page has none in the page cache."""
    empty = tmp_path / "empty"
    empty.touch()
    make_cold([empty])
    make_warm([empty])
    assert cached_bytes([empty]) == 0


def _children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def test_settles_memory() -> None:
    """It touches what was asked for, in a process that is gone afterwards."""
    before = _children()
    assert settle_memory(1 << 20, margin_bytes=1 << 20) == 2 << 20
    assert _children() <= before


def test_settles_no_more_memory_than_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is larger than what is free does not end the machine: a GiB is left to others."""
    monkeypatch.setattr(page_cache, "_available_bytes", lambda: (1 << 30) + (3 << 20))
    assert settle_memory(1 << 40) == 3 << 20
    monkeypatch.setattr(page_cache, "_available_bytes", lambda: 1 << 20)
    assert settle_memory(1 << 40) == 0


def test_says_that_memory_could_not_be_settled() -> None:
    """Where the process that touches it fails, so does the sample, and says what to do."""
    program = (
        "import resource\n"
        "from slipstream.bench import page_cache\n"
        "page_cache._available_bytes = lambda: 16 << 30\n"
        "resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n"
        "try:\n"
        "    page_cache.settle_memory(8 << 30)\n"
        "except page_cache.SampleError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "could not be settled" in done.stdout
    assert "smaller model" in done.stdout
