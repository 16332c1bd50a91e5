"""What a pull makes of a directory, the first time and again."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import slipstream
from slipstream import Options, Progress
from slipstream.testing.process_watch import reading_threads, see_descriptors
from slipstream.testing.range_lies import NoEtag, WeakEtag
from slipstream.testing.range_server import Faults
from tests.fuse.mounts import mount_in_memory
from tests.pulling.models import CHUNK_BYTES, SMALL_CHUNKS, Served, own_names, read_tree, write_files

SIZES = {"a.json": 500, "deep/b.bin": 200_000, "c.safetensors": 700_001, "empty": 0}


def pull(source: Path | str, directory: Path, **how: Any) -> tuple[tuple[Path, ...], Progress]:
    """Pulls in small ranges; the paths, and the last report."""
    reports: list[Progress] = []
    paths = slipstream.pull(source, directory, options=SMALL_CHUNKS, progress=reports.append, **how)
    return paths, reports[-1]


def inodes(directory: Path) -> dict[str, int]:
    return {path: (directory / path).stat().st_ino for path in read_tree(directory)}


def test_everything(tmp_path: Path) -> None:
    """All that lies under a directory lies under the other one, byte for byte, and nothing that is half made."""
    contents = write_files(tmp_path / "m", SIZES)
    paths, last = pull(tmp_path / "m", tmp_path / "to")
    assert paths == tuple(sorted(tmp_path / "to" / path for path in SIZES))
    assert read_tree(tmp_path / "to") == contents
    assert own_names(tmp_path / "to") == ["lock", "pull.jsonl"]
    assert (last.bytes_read, last.bytes_total) == (sum(SIZES.values()),) * 2
    assert (last.tensors_delivered, last.tensors_total) == (4, 4)


def test_patterns(tmp_path: Path) -> None:
    """What is not wanted is not there; what other pulls have brought stays."""
    contents = write_files(tmp_path / "m", SIZES)
    paths, _ = pull(tmp_path / "m", tmp_path / "to", allow="*.json")
    assert paths == (tmp_path / "to" / "a.json",)
    assert read_tree(tmp_path / "to") == {"a.json": contents["a.json"]}
    paths, last = pull(tmp_path / "m", tmp_path / "to", ignore=["*.json", "*.safetensors"])
    assert paths == (tmp_path / "to" / "deep" / "b.bin", tmp_path / "to" / "empty")
    assert last.tensors_total == 2
    assert set(read_tree(tmp_path / "to")) == {"a.json", "deep/b.bin", "empty"}
    assert pull(tmp_path / "m", tmp_path / "to")[1].tensors_total == 1  # all the rest


def test_nothing_matches(tmp_path: Path) -> None:
    """A pattern that nothing matches gives no path, and makes no directory."""
    write_files(tmp_path / "m", SIZES)
    assert pull(tmp_path / "m", tmp_path / "to", allow="*.md") == ((), Progress(0, 0, 0, 0, 0.0))
    assert not (tmp_path / "to").exists()


def test_again(tmp_path: Path) -> None:
    """What is there is not fetched again: every file is the very same one."""
    write_files(tmp_path / "m", SIZES)
    paths, _ = pull(tmp_path / "m", tmp_path / "to")
    before = inodes(tmp_path / "to")
    assert pull(tmp_path / "m", tmp_path / "to") == (paths, Progress(0, 0, 0, 0, 0.0))
    assert inodes(tmp_path / "to") == before


def test_again_from_a_server(served: Served, tmp_path: Path) -> None:
    """Of files that are there, a server is asked for size and ETag and for nothing else."""
    served.pull(tmp_path / "to")
    served.server.reset()
    assert served.pull(tmp_path / "to").bytes_total == 0
    assert len(served.server.requests) == len(served.contents)


def test_changed_in_the_store(tmp_path: Path) -> None:
    """A file that is another one in the store is fetched, though its size be the same; the others are not."""
    contents = write_files(tmp_path / "m", SIZES)
    pull(tmp_path / "m", tmp_path / "to")
    before = inodes(tmp_path / "to")
    contents |= write_files(tmp_path / "m", {"deep/b.bin": SIZES["deep/b.bin"]}, seed=1)
    _, last = pull(tmp_path / "m", tmp_path / "to")
    assert (last.tensors_total, last.bytes_total) == (1, SIZES["deep/b.bin"])
    assert read_tree(tmp_path / "to") == contents
    assert {path for path, inode in inodes(tmp_path / "to").items() if inode != before[path]} == {"deep/b.bin"}


@pytest.mark.parametrize("change", ["rewritten", "appended", "removed", "a link", "touched"])
def test_changed_here(change: str, tmp_path: Path) -> None:
    """A file that somebody has changed or removed in the directory is fetched again."""
    contents = write_files(tmp_path / "m", SIZES)
    pull(tmp_path / "m", tmp_path / "to")
    path = tmp_path / "to" / "a.json"
    match change:
        case "rewritten":
            path.write_bytes(b"x" * SIZES["a.json"])
        case "appended":
            with path.open("ab") as file:
                file.write(b"x")
        case "removed":
            path.unlink()
        case "a link":
            path.rename(tmp_path / "a.json")
            path.symlink_to(tmp_path / "a.json")
        case "touched":
            os.utime(path, ns=(1, 1))
    _, last = pull(tmp_path / "m", tmp_path / "to")
    assert (last.tensors_total, last.bytes_total) == (1, SIZES["a.json"])
    assert read_tree(tmp_path / "to") == contents
    assert not path.is_symlink()


def test_copies_that_keep_whole_seconds(tmp_path: Path) -> None:
    """A directory that went through an archive, which keeps times in seconds, has its files still."""
    write_files(tmp_path / "m", SIZES)
    pull(tmp_path / "m", tmp_path / "to")
    subprocess.run(["tar", "--format=ustar", "-C", str(tmp_path), "-cf", str(tmp_path / "to.tar"), "to"], check=True)
    shutil.rmtree(tmp_path / "to")
    subprocess.run(["tar", "-C", str(tmp_path), "-xf", str(tmp_path / "to.tar")], check=True)
    assert pull(tmp_path / "m", tmp_path / "to")[1].tensors_total == 0


def test_the_record_may_go(tmp_path: Path) -> None:
    """Without what a pull keeps for itself, all is fetched anew, over what is there."""
    contents = write_files(tmp_path / "m", SIZES)
    pull(tmp_path / "m", tmp_path / "to")
    shutil.rmtree(tmp_path / "to" / ".slipstream")
    assert pull(tmp_path / "m", tmp_path / "to")[1].tensors_total == len(SIZES)
    assert read_tree(tmp_path / "to") == contents


@pytest.mark.parametrize(
    "line",
    [
        b"garbage",
        b"\0" * 100,
        b"[]",
        b'{"path": "a.json"}',
        b'{"path": "a.json", "uri": 7, "size": 500, "etag": "e", "mtime_ns": 0}',
        b'{"path": "a.json", "uri": "u", "size": 500, "etag": "e", "landed": [[0, 501]]}',
        b'{"path": "a.json", "uri": "u", "size": 500, "etag": "e", "landed": [[-1, 5]]}',
        b'{"path": "a.json", "uri": "u", "size": 500, "etag": "e", "landed": 7}',
        b'{"path": "a.json", "uri": "u", "size": 500, "etag": "e", "mtime_ns": "soon"}',
        b'{"path": ',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_a_record_with_a_line_that_says_nothing(line: bytes, tmp_path: Path) -> None:
    """A line of the record that makes no sense is passed over; the others count."""
    contents = write_files(tmp_path / "m", SIZES)
    pull(tmp_path / "m", tmp_path / "to")
    record = tmp_path / "to" / ".slipstream" / "pull.jsonl"
    record.write_bytes(line + b"\n" + record.read_bytes() + line)
    assert pull(tmp_path / "m", tmp_path / "to")[1].tensors_total == 0
    (tmp_path / "to" / "a.json").unlink()
    assert pull(tmp_path / "m", tmp_path / "to")[1].tensors_total == 1
    assert read_tree(tmp_path / "to") == contents
    assert len(record.read_bytes().splitlines()) == len(SIZES)  # written anew, and compact


def test_two_sources_for_one_directory(tmp_path: Path) -> None:
    """A file of the same path from elsewhere takes the place of the one that is there."""
    first = write_files(tmp_path / "m", {"config.json": 500, "m.bin": 10})
    second = write_files(tmp_path / "n", {"config.json": 500, "n.bin": 10}, seed=1)
    pull(tmp_path / "m", tmp_path / "to")
    pull(tmp_path / "n", tmp_path / "to")
    assert read_tree(tmp_path / "to") == first | second
    assert pull(tmp_path / "m", tmp_path / "to")[1].tensors_total == 1
    assert read_tree(tmp_path / "to") == second | first


@pytest.mark.parametrize("fault", [NoEtag(keeps_last_modified=False), NoEtag(), WeakEtag()])
def test_weak_and_missing_etags(fault: NoEtag | WeakEtag, served: Served, tmp_path: Path) -> None:
    """Where nothing tells whether a file is still the same, it is fetched again; a date or a weak ETag tells it.

    Of an empty file, its size tells it.
    """
    served.server.set_faults(Faults(fault))
    served.pull(tmp_path / "to")
    knows = not (isinstance(fault, NoEtag) and not fault.keeps_last_modified)
    assert served.pull(tmp_path / "to").tensors_total == (0 if knows else len(served.contents) - 1)
    assert own_names(tmp_path / "to") == ["lock", "pull.jsonl"]


def test_a_pulled_directory_as_the_source(tmp_path: Path) -> None:
    """What a pull keeps for itself is not pulled along."""
    contents = write_files(tmp_path / "m", SIZES)
    pull(tmp_path / "m", tmp_path / "first")
    paths, _ = pull(tmp_path / "first", tmp_path / "second")
    assert len(paths) == len(SIZES)
    assert read_tree(tmp_path / "second") == contents


def test_into_itself(tmp_path: Path) -> None:
    """A directory is not pulled into itself, nor what was pulled into a folder of it into that folder again."""
    contents = write_files(tmp_path / "m", SIZES)
    with pytest.raises(slipstream.UsageError, match="another directory"):
        pull(tmp_path / "m", tmp_path / "m")
    pull(tmp_path / "m", tmp_path / "m" / "copy")
    with pytest.raises(slipstream.UsageError, match="another directory"):
        pull(tmp_path / "m", tmp_path / "m" / "copy")
    paths, _ = pull(tmp_path / "m" / "copy", tmp_path)  # upwards is no circle
    assert {path: (tmp_path / path).read_bytes() for path in contents} == contents
    assert len(paths) == len(contents)


def test_a_relative_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths are those of the directory as it was given, also as text; a home folder's sign is understood."""
    write_files(tmp_path / "m", {"a.json": 5})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert slipstream.pull("m", "to/here") == (Path("to/here/a.json"),)
    assert slipstream.pull("m", "~/there") == (tmp_path / "home" / "there" / "a.json",)


@pytest.mark.parametrize(
    "directory", ["", "a\0b", b"to", None, 7, "s3://bucket/m", Path("s3://bucket/m"), "file:///tmp/x", "x://y"]
)
def test_what_is_no_directory(directory: object, tmp_path: Path) -> None:
    """An argument that is no path of a directory is a UsageError."""
    write_files(tmp_path / "m", SIZES)
    with pytest.raises(slipstream.UsageError):
        slipstream.pull(tmp_path / "m", directory)  # type: ignore[arg-type]


def test_a_file_where_the_directory_should_be(tmp_path: Path) -> None:
    """A file of that name is told, and kept."""
    write_files(tmp_path, {"m/a.json": 5, "to": 7})
    with pytest.raises(slipstream.WriteError, match="something else of that name") as caught:
        pull(tmp_path / "m", tmp_path / "to")
    assert caught.value.uri == str(tmp_path / "to")
    assert (tmp_path / "to").stat().st_size == 7


@pytest.mark.parametrize("path", ["deep", "a.json"])
def test_a_file_and_a_folder_in_each_others_place(path: str, tmp_path: Path) -> None:
    """A file where a folder is needed, or a folder where a file is, is told before anything is fetched."""
    write_files(tmp_path / "m", SIZES)
    (tmp_path / "to").mkdir()
    if path == "deep":
        (tmp_path / "to" / path).write_bytes(b"x")
    else:
        (tmp_path / "to" / path).mkdir()
    reports: list[Progress] = []
    with pytest.raises(slipstream.WriteError) as caught:
        slipstream.pull(tmp_path / "m", tmp_path / "to", progress=reports.append)
    assert caught.value.uri == str(tmp_path / "to" / path)
    assert reports == []


def test_a_read_only_directory(tmp_path: Path) -> None:
    """A directory that nothing can be written into will do as long as it has all; then it is a WriteError."""
    write_files(tmp_path / "m", SIZES)
    (tmp_path / "to").mkdir()
    with mount_in_memory("tmpfs", tmp_path / "to"):
        paths, _ = pull(tmp_path / "m", tmp_path / "to")
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "to")], check=True)
        assert pull(tmp_path / "m", tmp_path / "to")[0] == paths
        write_files(tmp_path / "m", {"new.json": 5})
        with pytest.raises(slipstream.WriteError, match=r"read-only \(EROFS\)"):
            pull(tmp_path / "m", tmp_path / "to")


def test_many_small_files(tmp_path: Path) -> None:
    """Hundreds of files, some in folders, come as a few do; the record has one line for each."""
    contents = write_files(tmp_path / "m", {f"{number % 7}/{number}.json": number for number in range(400)})
    pull(tmp_path / "m", tmp_path / "to")
    assert read_tree(tmp_path / "to") == contents
    lines = (tmp_path / "to" / ".slipstream" / "pull.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["path"] for line in lines) == sorted(contents)


@pytest.mark.parametrize("memory_limit", [5000, CHUNK_BYTES, 1 << 20])
def test_a_memory_limit(memory_limit: int, served: Served, tmp_path: Path) -> None:
    """A pull makes do with little memory: it cuts files into ranges that fit."""
    served.pull(tmp_path / "to", options=Options(memory_limit=memory_limit, chunk_bytes=CHUNK_BYTES, hedge=False))


def test_a_memory_limit_of_one_byte(served: Served, tmp_path: Path) -> None:
    """Even with a single byte at a time."""
    served.server.put("few.bin", b"0123456789")
    options = Options(memory_limit=1, hedge=False)
    [path] = slipstream.pull(served.server.url("few.bin"), tmp_path / "to", options=options)
    assert path.read_bytes() == b"0123456789"


def test_progress(served: Served, tmp_path: Path) -> None:
    """Reports never go back; the last one says that all of it is done, and comes once all of it is."""
    seen: list[tuple[Progress, int]] = []

    def note(progress: Progress) -> None:
        seen.append((progress, len(read_tree(tmp_path / "to"))))

    slipstream.pull(served.url, tmp_path / "to", options=SMALL_CHUNKS, progress=note)
    reports = [progress for progress, _ in seen]
    assert all(report.bytes_total == served.nbytes and report.tensors_total == 5 for report in reports)
    assert all(
        left.bytes_read <= right.bytes_read and left.tensors_delivered <= right.tensors_delivered
        for left, right in itertools.pairwise(reports)
    )
    assert all(progress.tensors_delivered <= there for progress, there in seen)
    assert (reports[-1].bytes_read, reports[-1].tensors_delivered) == (served.nbytes, 5)


def test_nothing_is_left_open(served: Served, tmp_path: Path) -> None:
    """A pull leaves no thread, no descriptor and no connection, whether it fetches something or nothing."""
    served.pull(tmp_path / "first")
    before = see_descriptors()
    served.pull(tmp_path / "second")
    served.pull(tmp_path / "second")
    assert reading_threads() == []
    assert see_descriptors() <= before
    served.server.wait_open_connections(0)
