"""A pull that is cut off, however that happens, leaves no file half written, and the next one goes on from there."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

import slipstream
import slipstream.delivery.numpy  # now, so that no time is spent on it later
from slipstream.pulling import arrivals
from slipstream.pulling.arrivals import Arrivals
from slipstream.testing.process_watch import reading_threads, see_descriptors, wait_for
from slipstream.testing.range_faults import Hold, Status
from slipstream.testing.range_server import Faults, RangeServer, When
from tests.pulling.children import finish, start_child
from tests.pulling.models import (
    CHUNK_BYTES,
    FIRST_LOOK_BYTES,
    SMALL_CHUNKS,
    Served,
    landed_bytes,
    own_names,
    read_tree,
)

LARGE = "large.bin"
CAME_BYTES = 9 * CHUNK_BYTES  # of the large file; the requests for the rest wait at a gate
LATE = When(path=LARGE, after=1 + CAME_BYTES // CHUNK_BYTES)  # behind the first look, and so many ranges


def wait_noted(served: Served, directory: Path) -> None:
    """Waits until all other files are whole, and the record has all that came of the large one."""

    def is_noted() -> bool:
        return landed_bytes(directory, LARGE) == CAME_BYTES and read_tree(
            directory
        ).keys() == served.contents.keys() - {LARGE}

    wait_for(is_noted, "what came is not noted")


def fail_once(served: Served, directory: Path) -> None:
    """Pulls until the rest of the large file is refused, once all that comes before is written."""
    write, written = Arrivals.write, 0

    def count(self: Arrivals, number: int, start: int, data: memoryview) -> None:
        nonlocal written
        write(self, number, start, data)
        written += len(data)
        others = sum(new.file.blob.size for new in self._files if new.file.path != LARGE)
        if written == CAME_BYTES + others:
            served.server.wait_held(1)
            served.server.release()

    served.server.reset()
    served.server.set_faults(Faults(Status(403, when=LATE), Hold(when=LATE)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Arrivals, "write", count)
        with pytest.raises(slipstream.AccessDeniedError):
            slipstream.pull(served.url, directory, options=SMALL_CHUNKS)
    served.server.reset()


def check_the_rest_comes(served: Served, directory: Path) -> None:
    """Pulls again: of the large file only what is missing is asked for, and the directory is as it should be."""
    served.pull(directory)
    assert served.count_sent(LARGE) == FIRST_LOOK_BYTES + len(served.contents[LARGE]) - CAME_BYTES
    assert own_names(directory) == ["lock", "pull.jsonl"]


def test_killed(served: Served, tmp_path: Path) -> None:
    """A killed process leaves what is whole, nothing under the name of what is not, and what it has noted counts."""
    served.server.set_faults(Faults(Hold(when=LATE)))
    with start_child(served.url, tmp_path / "to") as child:
        wait_noted(served, tmp_path / "to")
        child.kill()
        assert finish(child)[0] == -signal.SIGKILL
    served.server.reset()
    check_the_rest_comes(served, tmp_path / "to")


def test_ctrl_c(served: Served, tmp_path: Path) -> None:
    """Ctrl-C ends a pull by KeyboardInterrupt alone; all that had come is not fetched again."""
    served.server.set_faults(Faults(Hold(when=LATE)))
    with start_child(served.url, tmp_path / "to") as child:
        wait_noted(served, tmp_path / "to")
        child.send_signal(signal.SIGINT)
        code, said, err = finish(child)
    served.server.reset()
    assert (code, said) == (-signal.SIGINT, [])
    assert err.splitlines()[-1] == "KeyboardInterrupt"
    assert err.count("Traceback") == 1
    assert LARGE not in read_tree(tmp_path / "to")
    check_the_rest_comes(served, tmp_path / "to")


def test_an_error(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an error all that had come is noted, at once and not only after a while; nothing else is left of it."""
    monkeypatch.setattr(arrivals, "_SETTLE_EVERY_S", 3600.0)
    before = see_descriptors()
    fail_once(served, tmp_path / "to")
    assert reading_threads() == []
    assert see_descriptors() <= before
    assert landed_bytes(tmp_path / "to", LARGE) == CAME_BYTES
    assert own_names(tmp_path / "to") == ["*.partial", "lock", "pull.jsonl"]
    check_the_rest_comes(served, tmp_path / "to")


def test_several_errors(served: Served, tmp_path: Path) -> None:
    """What came before each of several errors adds up."""
    fail_once(served, tmp_path / "to")
    served.server.set_faults(Faults(Status(403, when=When(path=LARGE, after=1))))
    with pytest.raises(slipstream.AccessDeniedError):
        slipstream.pull(served.url, tmp_path / "to", options=SMALL_CHUNKS)
    served.server.reset()
    check_the_rest_comes(served, tmp_path / "to")


def test_changed_in_between(served: Served, tmp_path: Path) -> None:
    """A file whose ETag is another one by then is fetched as a whole; of the old one nothing is left."""
    fail_once(served, tmp_path / "to")
    served.contents[LARGE] = bytes(reversed(served.contents[LARGE]))
    (served.root / LARGE).write_bytes(served.contents[LARGE])
    served.pull(tmp_path / "to")
    assert served.count_sent(LARGE) == FIRST_LOOK_BYTES + len(served.contents[LARGE])
    assert own_names(tmp_path / "to") == ["lock", "pull.jsonl"]


def test_changed_and_back_again(served: Served, tmp_path: Path) -> None:
    """What came of one version is never taken for another's, though the first one comes back, with its ETag."""
    versions = {"first": served.contents[LARGE], "second": bytes(reversed(served.contents[LARGE]))}
    for name in ("first", "second", "first", "second"):
        served.server.put(LARGE, versions[name])  # its ETag is made of its content
        fail_once(served, tmp_path / "to")
        assert own_names(tmp_path / "to") == ["*.partial", "lock", "pull.jsonl"]
    served.contents[LARGE] = versions["second"]
    check_the_rest_comes(served, tmp_path / "to")


@pytest.mark.parametrize("damage", ["shorter", "gone", "a folder", "a link"])
def test_a_partial_file_that_was_tampered_with(damage: str, served: Served, tmp_path: Path) -> None:
    """A partial file that is shorter than what is noted of it, or no file, is not gone on with."""
    to = tmp_path / "to"
    fail_once(served, to)
    [partial] = (to / ".slipstream").glob("*.partial")
    if damage == "shorter":
        partial.write_bytes(partial.read_bytes()[:-1])
    else:
        partial.unlink()
    if damage == "a link":
        (tmp_path / "outside").write_bytes(b"x" * len(served.contents[LARGE]))
        partial.symlink_to(tmp_path / "outside")
    if damage == "a folder":
        partial.mkdir()
        with pytest.raises(slipstream.WriteError, match="remove that folder"):
            served.pull(to)
        partial.rmdir()
    served.pull(to)
    if damage == "a link":
        assert (tmp_path / "outside").read_bytes() == b"x" * len(served.contents[LARGE])


def test_replaced_while_it_is_pulled(tmp_path: Path) -> None:
    """A file that is replaced in mid-pull is a BlobChangedError, never a mixture; the next pull is whole."""
    (tmp_path / "served").mkdir()
    with RangeServer(tmp_path / "served") as server:
        server.put("a.bin", b"1" * 600_000)
        server.set_faults(Faults(Hold(when=When(after=3))))
        with start_child(server.url("a.bin"), tmp_path / "to") as child:
            server.wait_held(1)
            server.put("a.bin", b"2" * 600_000)
            server.set_faults(Faults())
            server.release()
            code, _, err = finish(child)
        assert code == 1
        assert "BlobChangedError" in err
        assert read_tree(tmp_path / "to") == {}
        server.reset()
        [path] = slipstream.pull(server.url("a.bin"), tmp_path / "to")
        assert path.read_bytes() == b"2" * 600_000
