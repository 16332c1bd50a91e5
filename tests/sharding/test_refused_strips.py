"""Calls for reading strips that the kernel refuses, in a process of its own: the same bytes in another way."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

import slipstream
from slipstream import Options, Shard
from slipstream.sources.page_cache import count_cached_bytes
from slipstream.testing.checkpoints import write_safetensors
from tests.bench import loop_volume
from tests.endings.sample import as_bytes, evict
from tests.fallbacks import seccomp
from tests.fallbacks.refused_load import Outcome, digest, run_refused
from tests.fallbacks.seccomp import Refusal
from tests.sharding.test_strips_under_limits import ROW_BYTES, ROWS, write_columns

REASON = seccomp.why_unavailable()
pytestmark = pytest.mark.skipif(REASON is not None, reason=REASON or "")

NO_DIRECT_OPEN = Refusal("openat", errno.EINVAL, argument=2, value=os.O_DIRECT, mask=os.O_DIRECT)
HALF = "1/2:*=1"

Checkpoint = tuple[Path, dict[str, bytes]]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    """Tensors of whose rows the right half is wanted, on the disk and not in the page cache."""
    path = tmp_path / "a.safetensors"
    contents = write_columns(path)
    evict(path)
    return path, contents


def check(outcome: Outcome, contents: dict[str, bytes]) -> None:
    assert (outcome.error, outcome.left) == ("", "")
    assert outcome.digests == {name: digest(data) for name, data in contents.items()}


@pytest.mark.parametrize("strategy", ["auto", "direct"])
def test_without_refusals(strategy: str, checkpoint: Checkpoint) -> None:
    """Where nothing is refused there is nothing to tell."""
    path, contents = checkpoint
    outcome = run_refused(path, strategy, shard=HALF)
    check(outcome, contents)
    assert outcome.fallbacks == []


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM, errno.EAGAIN], ids=errno.errorcode.get)
def test_no_asynchronous_reads(number: int, checkpoint: Checkpoint) -> None:
    """Without io_setup (a sandbox, a kernel without it, or no contexts left) strips are read one by one."""
    path, contents = checkpoint
    outcome = run_refused(path, "auto", Refusal("io_setup", number), shard=HALF)
    check(outcome, contents)
    (line,) = outcome.fallbacks
    assert line.startswith(f"{path}: io_setup was refused ({os.strerror(number)})")
    assert "one by one" in line


def test_no_direct_reads(checkpoint: Checkpoint) -> None:
    """On a file system without O_DIRECT strips come through the page cache."""
    path, contents = checkpoint
    outcome = run_refused(path, "auto", NO_DIRECT_OPEN, shard=HALF)
    check(outcome, contents)
    assert any("O_DIRECT was refused" in line and "through the page cache" in line for line in outcome.fallbacks)


def test_refused_sectors(checkpoint: Checkpoint) -> None:
    """Reads of sectors that are refused are tried with larger ones, and then through the page cache, which is told."""
    path, contents = checkpoint
    outcome = run_refused(path, "auto", Refusal("io_submit", errno.EINVAL), shard=HALF)
    check(outcome, contents)
    (line,) = outcome.fallbacks
    assert "O_DIRECT was refused" in line


def test_the_end_of_a_file(tmp_path: Path) -> None:
    """The last strip ends with the file, inside a sector, and is read all the same."""
    data = os.urandom(ROWS * ROW_BYTES + ROWS)
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {"x": ("U8", (ROWS, ROW_BYTES + 1), data)})
    evict(path)
    outcome = run_refused(path, "auto", shard=HALF)
    width = ROW_BYTES + 1
    right = b"".join(data[row * width + width // 2 + 1 : (row + 1) * width] for row in range(ROWS))
    check(outcome, {"x": right})


@pytest.mark.skipif(loop_volume.why_unavailable() is not None, reason=loop_volume.why_unavailable() or "")
def test_sectors_of_four_kibibytes(tmp_path: Path) -> None:
    """On a device that gives sectors of 4 KiB only, strips are read in these, past the page cache."""
    with loop_volume.mounted_volume(tmp_path, sector_bytes=4096) as volume:
        path = volume / "a.safetensors"
        contents = write_columns(path)
        evict(path)
        found = slipstream.stream(path, framework="numpy", shard=Shard.parse(HALF), options=Options(strategy="direct"))
        assert as_bytes(found) == contents
        assert found.stats().fallbacks == ()
        with open(path, "rb") as file:
            cached = count_cached_bytes(file.fileno(), 0, path.stat().st_size)
        assert cached is not None
        assert cached <= 96 << 10  # the header
