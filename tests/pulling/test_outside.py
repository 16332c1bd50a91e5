"""Nothing is ever written outside the directory, whatever the names in a store and the links in the directory are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

import slipstream
from slipstream.pulling.directory import Directory
from slipstream.testing.checkpoints import encode_index
from slipstream.testing.range_server import RangeServer
from tests.object_stores.scripted_server import Said, ScriptedServer
from tests.pulling.models import INDEX, read_tree, write_files
from tests.pulling.test_listing import listing_of


@pytest.fixture
def to(tmp_path: Path) -> Iterator[Path]:
    """A directory to pull into, deep enough that what leaves it is noticed: fails where anything beside it changes."""
    write_files(tmp_path / "a", {"outside.bin": 9, "b/inside.bin": 5})
    before = read_tree(tmp_path / "a")
    yield tmp_path / "a" / "b" / "to"
    after = read_tree(tmp_path / "a")
    assert {path: data for path, data in after.items() if not path.startswith("b/to/")} == before


@pytest.mark.parametrize(
    "key",
    [
        "m/../up.bin",
        "m/deep/../../up.bin",
        "m/..",
        "m//up.bin",
        "m/./up.bin",
        "m/..\\up.bin",
        "m/deep\\up.bin",
        "m//etc/up.bin",
        "m/&#9;up.bin",
    ],
)
def test_hostile_keys_of_a_store(key: str, to: Path) -> None:
    """A listing with a key that cannot be a file below is an error, and none of its files is made."""

    def answer(method: str, path: str) -> Said:
        if "list-type" in path:
            return Said(200, listing_of(("m/a.bin", 7), (key, 7)))
        return Said(206, b"1234567", {"ETag": '"e"', "Content-Range": "bytes 0-6/7"})

    with ScriptedServer(answer) as server:
        options = {"anonymous": True, "endpoint": server.url}
        with pytest.raises(slipstream.SlipstreamError):
            slipstream.pull("s3://b/m/", to, storage_options=options)
        assert not to.exists()


@pytest.mark.parametrize("name", ["..%2fup.bin", "%2e%2e", "..%5cup.bin", "%2fetc%2fup.bin", "."])
def test_hostile_urls(name: str, to: Path, tmp_path: Path) -> None:
    """The last component of a URL is a file's name only if it can be one."""
    (tmp_path / "served").mkdir()
    with RangeServer(tmp_path / "served") as server:
        server.put("m/" + unquote(name), b"1234567")
        with pytest.raises(slipstream.SlipstreamError):
            slipstream.pull(f"{server.url('m/')}{name}", to)
    assert not to.exists()


@pytest.mark.parametrize("name", ["../up.bin", "/etc/up.bin", "deep/../../up.bin", "..\\up.bin"])
def test_hostile_indexes(name: str, to: Path, tmp_path: Path) -> None:
    """An index that names what lies outside is refused."""
    (tmp_path / "served").mkdir()
    with RangeServer(tmp_path / "served") as server:
        server.put(f"m/{INDEX}", encode_index({"t": name}, 7))
        server.put("up.bin", b"1234567")
        server.put("m/" + name, b"1234567")
        with pytest.raises(slipstream.SlipstreamError):
            slipstream.pull(server.url(f"m/{INDEX}"), to)
    assert not to.exists()


@pytest.mark.parametrize("target", ["..", "../..", "/tmp", "inner", "."])
@pytest.mark.parametrize("place", ["deep", "deep/er", ".slipstream"])
def test_links_on_the_way(place: str, target: str, to: Path, tmp_path: Path) -> None:
    """A link where a folder would be is not followed, wherever it leads: an error that names it."""
    source = tmp_path / "m"
    write_files(source, {"a.bin": 100, "deep/er/b.bin": 200_000})
    write_files(to, {"inner/x": 1})
    (to / place).parent.mkdir(exist_ok=True)
    (to / place).symlink_to(target)
    before = read_tree(to)
    with pytest.raises(slipstream.WriteError, match=r"symbolic link.*\(ELOOP\)") as caught:
        slipstream.pull(source, to)
    assert caught.value.uri == str(to / place)
    (to / place).unlink()
    assert read_tree(to) == before


def test_a_link_at_the_place_of_a_file(to: Path, tmp_path: Path) -> None:
    """A link where a file would be is replaced by that file; what it leads to stays as it is."""
    contents = write_files(tmp_path / "m", {"a.bin": 100})
    to.mkdir()
    (to / "a.bin").symlink_to("../../outside.bin")
    slipstream.pull(tmp_path / "m", to)
    assert read_tree(to) == contents
    assert not (to / "a.bin").is_symlink()


@pytest.mark.parametrize("name", ["lock", "pull.jsonl", "pull.jsonl.new", "reserve"])
def test_links_among_what_a_pull_keeps(name: str, to: Path, tmp_path: Path) -> None:
    """A link among a pull's own files is replaced, or refused; it is never written through."""
    contents = write_files(tmp_path / "m", {"a.bin": 100})
    (to / ".slipstream").mkdir(parents=True)
    (to / ".slipstream" / name).symlink_to("../../../outside.bin")
    if name in ("lock", "reserve"):
        with pytest.raises(slipstream.WriteError, match="symbolic link"):
            slipstream.pull(tmp_path / "m", to)
        (to / ".slipstream" / name).unlink()
    slipstream.pull(tmp_path / "m", to)
    assert read_tree(to) == contents


def test_a_link_to_the_directory_itself(to: Path, tmp_path: Path) -> None:
    """The directory itself may be reached through links: that is how the caller named it."""
    contents = write_files(tmp_path / "m", {"deep/a.bin": 100})
    to.mkdir()
    (tmp_path / "link").symlink_to(to)
    [path] = slipstream.pull(tmp_path / "m", tmp_path / "link")
    assert path == tmp_path / "link" / "deep" / "a.bin"
    assert read_tree(to) == contents


def test_a_link_that_comes_later(to: Path, tmp_path: Path) -> None:
    """A folder that becomes a link between two steps is not followed either: each step looks for itself."""
    to.mkdir()
    with Directory(str(to), make=True) as place:
        place.write_own("x.partial", 0, b"secret")
        place.check_way("deep/a.bin")
        (to / "deep").symlink_to("../..")
        with pytest.raises(slipstream.WriteError, match="symbolic link"):
            place.move_own("x.partial", "deep/a.bin")
        assert place.see("deep/outside.bin") is None
        assert place.see_own("x.partial") is not None
