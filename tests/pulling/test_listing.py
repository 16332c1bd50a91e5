"""What lies under a URI: what file systems, web servers and stores have of their own."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any, cast

import pytest

import slipstream
from tests.object_stores.scripted_server import Said, ScriptedServer, s3_refusal
from tests.pulling.models import INDEX, Served, write_files


def paths_under(uri: Path | str, **how: object) -> list[str]:
    root = os.path.abspath(uri)
    return [os.path.relpath(blob.uri, root) for blob in slipstream.list_files(uri, **how)]  # type: ignore[arg-type]


def test_links_are_followed(tmp_path: Path) -> None:
    """Links to files and folders are listed as what they lead to; one that leads round in a circle ends there."""
    write_files(tmp_path / "elsewhere", {"x.bin": 7, "y/z.bin": 8})
    write_files(tmp_path / "m", {"a.bin": 1})
    (tmp_path / "m" / "file").symlink_to(tmp_path / "elsewhere" / "x.bin")
    (tmp_path / "m" / "folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "m" / "again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "y" / "round").symlink_to(tmp_path / "elsewhere" / "y")
    assert paths_under(tmp_path / "m") == [
        "a.bin",
        "again/x.bin",
        "again/y/z.bin",
        "file",
        "folder/x.bin",
        "folder/y/z.bin",
    ]


def test_what_is_no_file_is_left_out(tmp_path: Path) -> None:
    """Sockets and pipes are no files, and are not waited for."""
    write_files(tmp_path, {"a.bin": 1})
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(tmp_path / "socket"))
        assert paths_under(tmp_path) == ["a.bin"]


def test_a_broken_link_is_told(tmp_path: Path) -> None:
    """A link to nowhere is what an interrupted download leaves: an error, and not a file less."""
    write_files(tmp_path, {"a.bin": 1})
    (tmp_path / "shard.safetensors").symlink_to("../blobs/gone")
    with pytest.raises(slipstream.BlobNotFoundError, match=r"shard\.safetensors is a link to \.\./blobs/gone"):
        slipstream.list_files(tmp_path)


def test_an_empty_directory(tmp_path: Path) -> None:
    """It has no files, which is no mistake; a pull of it makes nothing."""
    (tmp_path / "m").mkdir()
    assert slipstream.list_files(tmp_path / "m") == ()
    assert slipstream.pull(tmp_path / "m", tmp_path / "to") == ()
    assert not (tmp_path / "to").exists()


def test_a_repository_of_the_hub(tmp_path: Path) -> None:
    """The cache folder of a repository stands for the snapshot that its main branch points to."""
    write_files(tmp_path, {"snapshots/abc/config.json": 3, "snapshots/old/config.json": 4})
    (tmp_path / "refs").mkdir()
    (tmp_path / "refs" / "main").write_text("abc")
    [blob] = slipstream.list_files(tmp_path)
    assert blob.uri == os.fspath(tmp_path / "snapshots" / "abc" / "config.json")


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """A file whose name is not UTF-8 is listed, pulled and known like any other."""
    source = tmp_path / "m"
    source.mkdir()
    with open(os.fsencode(source) + b"/\xff.bin", "wb") as file:
        file.write(b"x" * 10)
    [path] = slipstream.pull(source, tmp_path / "to")
    assert os.fsencode(path.name) == b"\xff.bin"
    inode = path.stat().st_ino
    assert slipstream.pull(source, tmp_path / "to") == (path,)
    assert path.stat().st_ino == inode


@pytest.mark.parametrize("uri", ["*.json", "m/[ab].json"])
def test_a_glob_is_told_where_patterns_go(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A glob in place of a folder is an error that names `allow=`."""
    write_files(tmp_path, {"m/a.json": 1})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(slipstream.BlobNotFoundError, match="allow="):
        slipstream.list_files(uri)


def test_brackets_in_a_name(tmp_path: Path) -> None:
    """A folder that is named like a glob is that folder."""
    write_files(tmp_path, {"m[1]/a.json": 1})
    assert paths_under(tmp_path / "m[1]") == ["a.json"]


def test_an_index_is_what_a_web_server_can_list(served: Served, tmp_path: Path) -> None:
    """The URL of an index stands for it and what it names; patterns choose among these."""
    found = slipstream.list_files(served.url)
    assert {blob.uri: blob.size for blob in found} == {
        served.server.url(path): len(data) for path, data in served.contents.items()
    }
    [path] = slipstream.pull(served.url, tmp_path / "to", allow="*.index.json")
    assert path == tmp_path / "to" / INDEX


def test_a_web_servers_directory(served: Served, tmp_path: Path) -> None:
    """The URL of a directory is an error that says what to give instead."""
    for look in (slipstream.list_files, slipstream.read_file):
        with pytest.raises(slipstream.UsageError, match="HTTP cannot list"):
            look(served.server.url("deep/"))


def test_a_prefix_is_no_file() -> None:
    """Reading a prefix as a file is an error before any request."""
    with pytest.raises(slipstream.UsageError, match="prefix"):
        slipstream.read_file("s3://bucket/m/", storage_options={"endpoint": "http://127.0.0.1:1", "anonymous": True})


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    """Nor is a directory."""
    with pytest.raises(slipstream.BlobNotFoundError, match="not a regular file"):
        slipstream.read_file(tmp_path)


def listing_of(*objects: tuple[str, int]) -> bytes:
    """A page of ListObjectsV2."""
    items = "".join(
        f"<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&quot;e&quot;</ETag>"
        f"<Size>{size}</Size></Contents>"
        for key, size in objects
    )
    return f"<ListBucketResult><IsTruncated>false</IsTruncated>{items}</ListBucketResult>".encode()


def test_marks_of_folders_are_no_files() -> None:
    """Consoles make an empty object for a folder: it is not listed beside what lies in that folder."""
    page = listing_of(("m/", 0), ("m/deep/", 0), ("m/deep/a.bin", 7), ("m/a.bin", 7))
    with ScriptedServer(Said(200, page)) as server:
        found = slipstream.list_files("s3://b/m", storage_options={"anonymous": True, "endpoint": server.url})
    assert [blob.uri for blob in found] == ["s3://b/m/a.bin", "s3://b/m/deep/a.bin"]


def test_who_may_read_but_not_list(tmp_path: Path) -> None:
    """An object that is named is pulled by a user who may not list."""

    def answer(method: str, path: str) -> Said:
        if "list-type" in path:
            return Said(403, s3_refusal("AccessDenied", "Access Denied"))
        return Said(206, b"{}", {"ETag": '"e"', "Content-Range": "bytes 0-1/2"})

    with ScriptedServer(answer) as server:
        options = {"key": "AK", "secret": "SK", "endpoint": server.url}
        [path] = slipstream.pull("s3://b/m/config.json", tmp_path, storage_options=options)
        with pytest.raises(slipstream.AccessDeniedError):
            slipstream.pull("s3://b/m/", tmp_path, storage_options=options)
    assert path.read_bytes() == b"{}"


def test_a_small_file_takes_one_request(served: Served) -> None:
    """Size, ETag and content of a small file come with one request; more than that of a large one with two."""
    with_query = served.server.url("small.json")
    assert slipstream.read_file(with_query) == served.contents["small.json"]
    assert len(served.server.requests) == 1
    assert slipstream.read_file(served.server.url("large.bin")) == served.contents["large.bin"]
    assert len(served.server.requests) == 3


@pytest.mark.parametrize("uri", ["", b"m", None, 7])
def test_what_is_no_uri(uri: object, tmp_path: Path) -> None:
    """What is neither text nor a path is refused by every function."""
    for look in (slipstream.list_files, slipstream.read_file, lambda given: slipstream.pull(given, tmp_path)):
        with pytest.raises(slipstream.UsageError):
            look(cast(Any, uri))


def test_secrets_of_a_url_are_not_kept(served: Served, tmp_path: Path) -> None:
    """A query and a password of a URL reach neither the record nor a file's name."""
    url = served.server.url("small.json").replace("http://", "http://me:hush-hush@") + "?sig=hush-hush"
    [path] = slipstream.pull(url, tmp_path)
    assert path == tmp_path / "small.json"
    assert "small.json" in (tmp_path / ".slipstream" / "pull.jsonl").read_text()
    for kept in (tmp_path / ".slipstream").iterdir():
        assert b"hush" not in kept.read_bytes()


def test_files_that_go_during_the_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that somebody removes between the look at its folder and the look at it is simply not there."""
    write_files(tmp_path, {"a.bin": 1, "b.bin": 1})
    listdir = os.listdir

    def list_and_remove(path: str) -> list[str]:
        names = listdir(path)
        (tmp_path / "b.bin").unlink(missing_ok=True)
        return names

    monkeypatch.setattr(os, "listdir", list_and_remove)
    assert paths_under(tmp_path) == ["a.bin"]


def test_a_server_of_ranges_is_asked_once_for_each_shard(served: Served) -> None:
    """Listing an index costs one request for it and one for each file that it names."""
    slipstream.list_files(served.url)
    assert len(served.server.requests) == len(served.contents)


def test_listing_leaves_no_connection(served: Served) -> None:
    """Connections are closed when the listing is done."""
    slipstream.list_files(served.url)
    served.server.wait_open_connections(0)
