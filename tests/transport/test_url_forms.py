"""Every form of URL, and what of each may be shown."""

from __future__ import annotations

import base64
import json
import socket
import threading
from pathlib import Path

import pytest

import slipstream
from slipstream.errors import BlobNotFoundError, FormatError, SlipstreamError, UsageError
from slipstream.testing.checkpoints import encode_header, encode_index, write_safetensors
from slipstream.testing.range_faults import Hold, RequireHeader
from slipstream.testing.range_schedule import Faults, When
from tests.transport.serving import (
    FIRST_LOOK_BYTES,
    QUICK,
    RawServer,
    Served,
    fail,
    load,
    quick,
    read_head,
    write_model,
)

SIGNED = "X-Amz-Signature=0123456789abcdef&X-Amz-Credential=AKIASECRETKEYID%2F20260101"


def test_signed_urls(served: Served) -> None:
    """A query is sent with every request, and shown nowhere."""
    options = served.storage_options
    url = f"{served.url}?{SIGNED}"
    with slipstream.stream(url, framework="numpy", options=QUICK, storage_options=options) as stream:
        tensors = {name: bytes(memoryview(tensor)) for name, tensor in stream}  # type: ignore[arg-type]
        shown = repr((stream, stream.plan, stream.stats()))
    assert tensors == served.tensors
    assert {request.query for request in served.server.requests} == {SIGNED}
    checkpoint = slipstream.inspect(url, storage_options=options)
    shown += repr(checkpoint) + repr(slipstream.plan(url, storage_options=options))
    assert [blob.uri for blob in checkpoint.blobs] == [f"{served.url}?..."]
    for secret in ("Signature", "0123456789abcdef", "AKIASECRETKEYID"):
        assert secret not in shown


def test_user_and_password(served: Served) -> None:
    """user:password@ is sent as Basic authentication, decoded, and shown nowhere."""
    expected = "Basic " + base64.b64encode("me:p@ß:word".encode()).decode()
    served.server.set_faults(Faults(RequireHeader("Authorization", expected)))
    url = served.url.replace("://", "://me:p%40%C3%9F%3Aword@")
    served.load_whole(url=url)
    checkpoint = slipstream.inspect(url, storage_options=served.storage_options)
    assert [blob.uri for blob in checkpoint.blobs] == [served.url]


def test_one_blob_under_several_names(plain: Served) -> None:
    """URLs that differ only in what is not shown are told apart, and none of them waits for another for ever."""
    forms = [plain.url, plain.url.replace("http://", "HTTP://"), plain.url.replace("//", "//me:secret@")]
    forms += [plain.url + "?a=secret", plain.url + "?b=secret"]
    error = fail(forms)
    assert type(error) is FormatError  # the same tensors five times
    assert "in two files" in str(error)
    assert "secret" not in str(error)


@pytest.mark.parametrize(
    "name", ["with space.safetensors", "ünï✓.safetensors", "100%.safetensors", "a+b&c=d;e.safetensors"]
)
def test_odd_names(plain: Served, name: str) -> None:
    """Percent-encoded names of any script are asked for as they are."""
    tensors = write_model(plain.root / name, (1000,))
    assert load(plain.server.url(name)).tensors == tensors


def test_unencoded_names(plain: Served) -> None:
    """Spaces and letters of other scripts in a path are encoded, as browsers do."""
    tensors = write_model(plain.root / "ü ü.safetensors", (1000,))
    assert load(plain.server.url("") + "ü ü.safetensors").tensors == tensors


def test_ipv6() -> None:
    """A literal address of version 6 is connected to, and named in Host with its brackets."""
    header = encode_header([])
    heads = []

    def serve(connection: socket.socket) -> None:
        heads.append(read_head(connection))
        size = len(header)
        head = f"HTTP/1.1 206 OK\r\nContent-Length: {size}\r\nContent-Range: bytes 0-{size - 1}/{size}\r\n\r\n"
        connection.sendall(head.encode() + header)

    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no loopback of version 6")
    with listener:
        port = listener.getsockname()[1]

        def accept() -> None:
            connection, _ = listener.accept()
            with connection:
                serve(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        assert load(f"http://[::1]:{port}/a.safetensors").tensors == {}
        thread.join()
    assert f"\r\nHost: [::1]:{port}\r\n".encode() in heads[0]


@pytest.mark.parametrize(
    "url",
    [
        "http:///a.safetensors",
        "http://:80/a.safetensors",
        "http://h:99999/a.safetensors",
        "http://h:port/a.safetensors?sig=secret",
        "http://h:0/a.safetensors",
        "http://[::1/a.safetensors?sig=secret",
        "http://me:secret@[::1/a.safetensors",
        "http://me:sec/ret-secret@host/a.safetensors",
        "http://me:secret@exa\u2100mple.com/a.safetensors",
        "http://a..b/a.safetensors",
        "http://h/a.safetensors?a b=secret",
        "http://h/a.safetensors?ü=secret",
        "http://h/model/",
        "http://h/model/?sig=secret",
    ],
)
def test_what_is_no_url_of_a_blob(url: str) -> None:
    """A URL that cannot work is an error of use before anything is sent, and shows no secret."""
    for uris in (url, [url, "/nowhere.safetensors"]):
        error = fail(uris)
        assert type(error) is UsageError
        assert "secret" not in repr(error) + str(error) + repr(error.__context__) + repr(error.__cause__)
    assert "index.json" in str(fail("http://h/model/"))


def test_an_index_with_its_shards(plain: Served) -> None:
    """Shards are found beside their index, with the user's name but without the signature of the index."""
    folder = plain.root / "sharded"
    folder.mkdir(exist_ok=True)
    names = ["shard one.safetensors", "deeper/shard-2.safetensors"]
    (folder / "deeper").mkdir(exist_ok=True)
    tensors: dict[str, bytes] = {}
    weight_map: dict[str, str] = {}
    for number, name in enumerate(names):
        written = write_model(folder / name, (70_000, 1), seed=number, prefix=f"{number}.")
        tensors |= written
        weight_map |= dict.fromkeys(written, name)
    (folder / "model.safetensors.index.json").write_bytes(encode_index(weight_map, 0))
    url = plain.server.url("sharded/model.safetensors.index.json").replace("//", "//me:secret@")
    assert load(f"{url}?sig=secret").tensors == tensors
    queries = {(request.path.endswith(".json"), request.query) for request in plain.server.requests}
    assert queries == {(True, "sig=secret"), (False, "")}
    assert all(request.header("Authorization") for request in plain.server.requests)


def test_a_shard_that_is_missing(plain: Served) -> None:
    """The error names the shard's own URL."""
    index = encode_index({"a": "gone.safetensors"}, 0)
    plain.server.put("lost/model.safetensors.index.json", index)
    error = fail(plain.server.url("lost/model.safetensors.index.json"))
    assert type(error) is BlobNotFoundError
    assert error.uri == plain.server.url("lost/gone.safetensors")


def test_urls_and_paths_in_one_call(served: Served, tmp_path: Path) -> None:
    """Blobs behind HTTP and files are loaded together."""
    local = write_model(tmp_path / "local.safetensors", (100_000, 5), seed=9, prefix="local.")
    with slipstream.stream(
        [str(tmp_path / "local.safetensors"), served.url],
        framework="numpy",
        options=quick(hedge=True, concurrency="auto"),
        storage_options=served.storage_options,
    ) as stream:
        tensors = {name: tensor.tobytes() for name, tensor in stream}  # type: ignore[union-attr]
    assert tensors == {**served.tensors, **local}


def test_an_empty_blob(served: Served) -> None:
    """A blob of no bytes is no checkpoint, and says so."""
    served.server.put("empty.safetensors", b"")
    error = served.fail(url=served.server.url("empty.safetensors"))
    assert type(error) is FormatError
    assert "8 bytes of its header's length, this one has 0" in str(error)


def test_a_checkpoint_without_tensors(served: Served) -> None:
    """It loads, as nothing."""
    served.server.put("none.safetensors", encode_header([]))
    assert served.load(url=served.server.url("none.safetensors")).tensors == {}


def test_a_header_longer_than_the_first_look(served: Served) -> None:
    """What the first look has brought of a long header is not asked for again."""
    tensors = {f"{'x' * 200}{number:05}": ("U8", (1,), bytes([number % 256])) for number in range(3000)}
    path = served.root / "long.safetensors"
    write_safetensors(path, tensors)
    loaded = served.load(quick(chunk_bytes=1 << 20), url=served.server.url(path.name)).tensors
    assert loaded == {name: data for name, (_, _, data) in tensors.items()}
    header_end = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    first, second, *_ = served.server.requests
    assert (first.range, second.range) == ((0, FIRST_LOOK_BYTES), (FIRST_LOOK_BYTES, header_end))


def test_a_server_that_ignores_ranges_of_small_files() -> None:
    """What a server sends whole, though only its beginning was asked for, is taken if it is no longer than that."""
    header = encode_header([])

    def serve(connection: socket.socket) -> None:
        while read_head(connection):
            connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(header)}\r\n\r\n".encode() + header)

    with RawServer(serve) as server:
        assert load(f"http://127.0.0.1:{server.port}/a.safetensors").tensors == {}


def test_all_headers_are_asked_for_at_once(plain: Served) -> None:
    """64 shards cost one round trip together: every first request is there before any is answered."""
    folder = plain.root / "many"
    folder.mkdir(exist_ok=True)
    weight_map: dict[str, str] = {}
    for number in range(64):
        name = f"{number:02}.safetensors"
        weight_map |= dict.fromkeys(write_model(folder / name, (10,), prefix=f"{number}."), name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    plain.server.set_faults(Faults(Hold(when=When(path="many/*.safetensors"))))
    found: list[object] = []
    url = plain.server.url("many/model.safetensors.index.json")
    options = quick(first_byte_timeout_s=30.0)
    thread = threading.Thread(target=lambda: found.append(slipstream.inspect(url, options=options)))
    thread.start()
    plain.server.wait_held(64)
    plain.server.release()
    thread.join()
    assert len(found) == 1
    assert len(plain.server.requests) == 1 + 64


@pytest.mark.parametrize("token", ["caf\u00e9 \u2026", "a\rX-Injected: 1"])
def test_a_token_that_no_header_can_carry(plain: Served, token: str) -> None:
    """It is an error of use that does not repeat it, and nothing is sent."""
    error = plain.fail(bearer_token=token)
    assert isinstance(error, SlipstreamError)
    assert type(error) is UsageError
    assert token not in repr(error)
    assert not plain.server.requests
