"""System calls that the kernel refuses, by a real filter in a process of its own: the same bytes by another way.

Each refusal is told once for each file, with its name and with what is done instead: in the stats and in the log.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from slipstream.types import FILE_STRATEGIES, Strategy
from tests.endings.sample import write_sample
from tests.fallbacks import seccomp
from tests.fallbacks.refused_load import Outcome, digest, run_refused
from tests.fallbacks.seccomp import Refusal

REASON = seccomp.why_unavailable()
pytestmark = pytest.mark.skipif(REASON is not None, reason=REASON or "")

MADV_HUGEPAGE, MADV_POPULATE_READ = 14, 22
NO_DESCRIPTOR = -1

NO_POPULATE = Refusal("madvise", errno.EINVAL, argument=2, value=MADV_POPULATE_READ)
NO_HUGE_PAGES = Refusal("madvise", errno.EINVAL, argument=2, value=MADV_HUGEPAGE)
NO_FILE_MAPPINGS = Refusal("mmap", errno.ENODEV, argument=4, value=NO_DESCRIPTOR, unless=True)
NO_DIRECT_OPEN = Refusal("openat", errno.EINVAL, argument=2, value=os.O_DIRECT, mask=os.O_DIRECT)
NO_PATIENT_READS = Refusal("preadv2", errno.EOPNOTSUPP, argument=5, value=os.RWF_NOWAIT, mask=os.RWF_NOWAIT)
NO_CACHESTAT = Refusal("cachestat", errno.ENOSYS)
NO_MINCORE = Refusal("mincore", errno.EPERM)

Checkpoint = tuple[Path, dict[str, bytes]]


def assert_right(outcome: Outcome, contents: dict[str, bytes]) -> None:
    assert (outcome.error, outcome.left) == ("", "")
    assert outcome.digests == {name: digest(data) for name, data in contents.items()}


def assert_told_once(outcome: Outcome, path: Path, *words: str) -> None:
    """One line that names the file and has these words, in the stats and in the log."""
    (line,) = outcome.fallbacks
    assert line.startswith(f"{path}: ")
    assert [word for word in words if word not in line] == []
    assert outcome.warnings == [line]


def test_without_refusals(checkpoint: Checkpoint, strategy: Strategy) -> None:
    """Where nothing is refused there is no fallback to tell of."""
    path, contents = checkpoint
    outcome = run_refused(path, strategy)
    assert_right(outcome, contents)
    assert (outcome.fallbacks, outcome.warnings) == ([], [])
    assert outcome.strategies == [strategy]


def test_no_populate(checkpoint: Checkpoint) -> None:
    """Linux before 5.14 knows no MADV_POPULATE_READ: `mapped` reads into the page cache by plain reads instead."""
    path, contents = checkpoint
    outcome = run_refused(path, "mapped", NO_POPULATE)
    assert_right(outcome, contents)
    assert_told_once(outcome, path, "MADV_POPULATE_READ was refused", "EINVAL", "plain reads instead")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM], ids=errno.errorcode.get)
def test_no_populate_in_a_sandbox(checkpoint: Checkpoint, number: int) -> None:
    """A sandbox may refuse the same call with another errno: it is named, and the same is done."""
    path, contents = checkpoint
    outcome = run_refused(path, "mapped", Refusal("madvise", number, argument=2, value=MADV_POPULATE_READ))
    assert_right(outcome, contents)
    assert_told_once(outcome, path, "MADV_POPULATE_READ was refused", errno.errorcode[number])


def test_no_huge_pages(checkpoint: Checkpoint, strategy: Strategy) -> None:
    """Huge pages are advice: a kernel without them is not worth a word."""
    path, contents = checkpoint
    outcome = run_refused(path, strategy, NO_HUGE_PAGES)
    assert_right(outcome, contents)
    assert (outcome.fallbacks, outcome.warnings) == ([], [])


def test_no_file_mappings(checkpoint: Checkpoint) -> None:
    """A file system that cannot map files (ENODEV): `mapped` reads through the page cache instead."""
    path, contents = checkpoint
    outcome = run_refused(path, "mapped", NO_FILE_MAPPINGS)
    assert_right(outcome, contents)
    assert_told_once(outcome, path, "mapping was refused", "No such device", "through the page cache instead")


def test_no_direct_open(checkpoint: Checkpoint) -> None:
    """A file system that opens no file with O_DIRECT (EINVAL): `direct` reads through the page cache instead."""
    path, contents = checkpoint
    outcome = run_refused(path, "direct", NO_DIRECT_OPEN)
    assert_right(outcome, contents)
    assert_told_once(outcome, path, "O_DIRECT was refused", "Invalid argument", "through the page cache instead")


def test_no_reads_without_waiting(checkpoint: Checkpoint) -> None:
    """A file system without RWF_NOWAIT (EOPNOTSUPP): `direct` reads cached pages from the device instead."""
    path, contents = checkpoint
    path.read_bytes()  # into the page cache
    outcome = run_refused(path, "direct", NO_PATIENT_READS)
    assert_right(outcome, contents)
    assert_told_once(outcome, path, "RWF_NOWAIT was refused", "Operation not supported", "from the device")


@pytest.mark.parametrize("name", ["auto", *FILE_STRATEGIES])
def test_no_cachestat(checkpoint: Checkpoint, name: str) -> None:
    """Linux before 6.5 has no cachestat: mincore answers in its place, the same."""
    path, contents = checkpoint
    path.read_bytes()
    outcome = run_refused(path, name, NO_CACHESTAT)
    assert_right(outcome, contents)
    assert (outcome.fallbacks, outcome.warnings) == ([], [])
    if name == "auto":
        assert outcome.reasons[0].startswith("all of it is in the page cache")


@pytest.mark.parametrize("name", ["auto", *FILE_STRATEGIES])
def test_blind_to_the_page_cache(checkpoint: Checkpoint, name: str) -> None:
    """Where nothing tells what is cached, all is read as if nothing were, and the reason says so."""
    path, contents = checkpoint
    outcome = run_refused(path, name, NO_CACHESTAT, NO_MINCORE)
    assert_right(outcome, contents)
    assert (outcome.fallbacks, outcome.warnings) == ([], [])
    if name == "auto":
        assert "the page cache cannot be looked into" in outcome.reasons[0]


@pytest.mark.parametrize("name", ["auto", *FILE_STRATEGIES])
def test_everything_refused(checkpoint: Checkpoint, name: str) -> None:
    """With all of these refused at once every strategy still loads, by plain reads."""
    path, contents = checkpoint
    outcome = run_refused(
        path,
        name,
        NO_POPULATE,
        NO_HUGE_PAGES,
        NO_FILE_MAPPINGS,
        NO_DIRECT_OPEN,
        NO_PATIENT_READS,
        NO_CACHESTAT,
        NO_MINCORE,
    )
    assert_right(outcome, contents)
    assert outcome.warnings == outcome.fallbacks
    assert len(outcome.fallbacks) == {"buffered": 0}.get(name, 1)


def test_one_line_for_each_file(tmp_path: Path) -> None:
    """Of several files each has its own line."""
    paths = [tmp_path / name for name in ("a.safetensors", "b.safetensors")]
    contents = write_sample(paths[0]) | write_sample(paths[1], seed=1, prefix="other.")
    outcome = run_refused(tmp_path, "direct", NO_DIRECT_OPEN)
    assert_right(outcome, contents)
    assert sorted(line.partition(": ")[0] for line in outcome.fallbacks) == [str(path) for path in paths]
    assert sorted(outcome.warnings) == sorted(outcome.fallbacks)


def test_no_threads(checkpoint: Checkpoint) -> None:
    """A process that may start no thread is told so by an error of slipstream's, and has nothing left of it."""
    path, _ = checkpoint
    outcome = run_refused(path, "buffered", Refusal("clone3", errno.EAGAIN), Refusal("clone", errno.EAGAIN))
    assert outcome.left == ""
    assert outcome.is_ours, outcome.error
    assert "thread" in outcome.message
