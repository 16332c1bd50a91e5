"""The safetensors header, byte by byte, and the words of its errors."""

from __future__ import annotations

import gc
import json
import pickle
import random

import pytest

from slipstream.errors import FormatError
from slipstream.formats import safetensors
from slipstream.formats.safetensors import MAX_HEADER_BYTES, Header, parse_header, parse_header_end
from slipstream.types import Blob, Dtype, TensorInfo
from tests.formats.builders import URI, describe, make_file, parse_file

TWO_TENSORS = (
    b"\x90\x00\x00\x00\x00\x00\x00\x00"
    b'{"__metadata__":{"format":"pt"},"w":{"dtype":"BF16","shape":[2,1],"data_offsets":[0,4]},'
    b'"s":{"dtype":"F32","shape":[],"data_offsets":[4,8]}}    '
    b"\x80\x3f\x00\x40\x00\x00\x80\x3f"
)


def refusal_of(content: bytes) -> FormatError:
    with pytest.raises(FormatError) as caught:
        parse_file(content)
    return caught.value


def test_literal_bytes() -> None:
    """A file of two tensors is read with absolute offsets."""
    blob = Blob(URI, len(TWO_TENSORS))
    assert parse_header_end(TWO_TENSORS[:8], blob) == 152
    assert parse_header(TWO_TENSORS[8:152], blob, 3) == Header(
        (TensorInfo("w", Dtype.BF16, (2, 1), 3, 152, 156), TensorInfo("s", Dtype.F32, (), 3, 156, 160)),
        {"format": "pt"},
    )


def test_smallest_file() -> None:
    """Eight bytes of length and `{}` are a whole file, without tensors."""
    assert parse_file(b"\x02\0\0\0\0\0\0\0{}") == Header((), {})


def test_sorted_by_position() -> None:
    """Tensors come in order of position, empty ones before the one that starts where they lie."""
    entries = {"late": describe(begin=1, end=2), "empty": describe(shape=[0], begin=1), "early": describe()}
    names = [tensor.name for tensor in parse_file(make_file(entries, b"xx")).tensors]
    assert names == ["early", "empty", "late"]


def test_every_dtype() -> None:
    """Each dtype of the format is known, and its size counted in bits."""
    for dtype in Dtype:
        nbytes = 8 * dtype.bits // 8
        (tensor,) = parse_file(make_file({"a": describe(dtype.value, [8], 0, nbytes)}, bytes(nbytes))).tensors
        assert (tensor.dtype, tensor.nbytes) == (dtype, nbytes)


def test_header_limit() -> None:
    """A header of exactly 100 MB is allowed, one byte more is not."""
    blob = Blob(URI, 10**9)
    assert parse_header_end(MAX_HEADER_BYTES.to_bytes(8, "little"), blob) == 8 + MAX_HEADER_BYTES
    with pytest.raises(FormatError, match="more than the 100,000,000 allowed"):
        parse_header_end((MAX_HEADER_BYTES + 1).to_bytes(8, "little"), blob)


@pytest.mark.parametrize(
    ("content", "words", "tensor", "data_offset", "length"),
    [
        (
            make_file({"a": describe("F32", [2], 0, 8)}, b"xxxxx"),
            "bytes, the file has .*download is probably inc",
            None,
            5,
            3,
        ),
        (
            make_file({"a": describe(), "b": describe(begin=3, end=4)}, b"xxxx"),
            "gap of 2 bytes between tensor 'a'",
            "b",
            1,
            2,
        ),
        (make_file({"b": describe(begin=1, end=2)}, b"xx"), "gap of 1 byte between the header and it", "b", 0, 1),
        (
            make_file({"a": describe(shape=[3], end=3), "b": describe(shape=[3], begin=1, end=4)}, b"xxxx"),
            "overlaps tensor 'a', which ends at byte",
            "b",
            1,
            2,
        ),
        (make_file({"a": describe()}, b"xyz"), "the file goes on for 2 bytes behind the last tensor", None, 1, 2),
        (
            make_file({"a": describe("F32", [2], 0, 4)}, b"xxxx"),
            r"\[2\] of F32 is 8 bytes, but its data_offsets hold 4",
            "a",
            0,
            4,
        ),
        (make_file({"a": describe("F4", [3])}, b"x"), r"is 12 bits, which do not fill whole bytes", "a", 0, 1),
        (make_file({"a": describe(shape=[2**32, 2**32])}, b"x"), "more bits than 64 bits can count", "a", 0, 1),
        (make_file({"a": describe(shape=[2**61])}, b"x"), "more bits than 64 bits can count", "a", 0, 1),
        (make_file({"a": describe(begin=1, end=0)}, b"x"), r"data_offsets \[1, 0\] are reversed", "a", 1, None),
    ],
)
def test_layout_errors(content: bytes, words: str, tensor: str | None, data_offset: int, length: int | None) -> None:
    """What is wrong with the layout is said plainly, and placed by absolute offset, length and tensor."""
    error = refusal_of(content)
    data_start = 8 + int.from_bytes(content[:8], "little")
    with pytest.raises(FormatError, match=words):
        raise error
    assert (error.tensor, error.offset, error.length) == (tensor, data_start + data_offset, length)
    assert "Download the file again" in str(error)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ('{"dtype":"F8","shape":[1],"data_offsets":[0,1]}', "its dtype 'F8' is unknown; known are BOOL, F4"),
        ('{"dtype":8,"shape":[1],"data_offsets":[0,1]}', "its dtype is the number 8 instead of a string"),
        ('{"dtype":"U8","shape":[true],"data_offsets":[0,1]}', "its shape holds true instead of a whole number"),
        (
            '{"dtype":"U8","shape":[-0],"data_offsets":[0,1]}',
            "its shape holds the number -0.0 instead of a whole number",
        ),
        ('{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}', r"its shape holds -1, which is not from 0 to 2\^64-1"),
        ('{"dtype":"U8","shape":null,"data_offsets":[0,1]}', "its shape is null instead of an array"),
        ('{"dtype":"U8","shape":[1],"data_offsets":[0,1,2]}', "its data_offsets are 3 numbers instead of 2"),
        ('{"dtype":"U8","shape":[1]}', "its entry lacks data_offsets"),
        ('{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}', "its entry has dtype twice"),
        ('["U8",[1]]', "its entry is an array of 2 instead of dtype, shape, data_offsets"),
        ("1", "its entry is the number 1 instead of an object"),
    ],
)
def test_entry_errors(entry: str, words: str) -> None:
    """What is wrong with an entry is said plainly, and placed where its name stands in the header."""
    content = make_file('{"good":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}, "the bad" : ' + entry + "}", b"xx")
    error = refusal_of(content)
    with pytest.raises(FormatError, match=words):
        raise error
    assert error.tensor == "the bad"
    assert error.offset == content.index(b'"the bad"')


def test_repeated_tensor() -> None:
    """A tensor described twice is refused, where the reference would silently take the last; the second is placed."""
    entry = json.dumps(describe())
    content = make_file(f'{{"a":{entry},"a":{entry}}}', b"x")
    error = refusal_of(content)
    assert "the header describes it twice" in str(error)
    assert error.tensor == "a"
    assert error.offset == content.rindex(b'"a"')


@pytest.mark.parametrize(
    ("header", "words", "offset"),
    [
        ('{"a" 1}', "not valid JSON .expecting ':' delimiter", 8 + 5),
        ('{"\u00e4" 1}', "not valid JSON", 8 + 6),
        (b'{"a\xff"}', "not UTF-8", 8 + 3),
        ('{"a":"\\ud800"}', "half of a surrogate pair", 8 + 6),
        ("  ", "blank", 8 + 2),
        ("\ufeff{}", "byte order mark", 8),
        ('{"a":' + "[" * 200 + "]" * 200 + "}", "nested more than 127 levels", 8),
        ('{"a":1e999}', "beyond the range of a double", 8),
    ],
)
def test_json_errors(header: str | bytes, words: str, offset: int) -> None:
    """A header that is no JSON is placed at the byte, not the character, where it breaks."""
    error = refusal_of(make_file(header))
    with pytest.raises(FormatError, match=words):
        raise error
    assert error.offset == offset


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"PK\x03\x04\x14\x00\x00\x08" + bytes(64), "PyTorch"),
        (b"<!DOCTYPE html>", "web page"),
        (b"", "this one has 0: the download is probably incomplete"),
        (make_file("{}", length=1000), "promises 1,008 bytes, the file has 10: the download is probably incomplete"),
    ],
)
def test_other_files(content: bytes, words: str) -> None:
    """Files that people mistake for safetensors are named, with what to do about them."""
    assert words in str(refusal_of(content))


def test_hostile_names_are_cut_in_messages_only() -> None:
    """A message shows 100 characters of a hostile name, escaped; the attribute has all of it."""
    name = "\x1b[2J" + "n" * 5000
    error = refusal_of(make_file({name: describe("nope")}, b"x"))
    assert error.tensor == name
    assert "'\\x1b[2Jnnn" in str(error)
    assert "n" * 101 not in str(error)


def test_errors_can_be_pickled() -> None:
    """An error of a worker process arrives whole in its parent."""
    error = refusal_of(make_file({"a": describe("nope")}, b"x"))
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.uri, copy.tensor, copy.offset) == (str(error), error.uri, error.tensor, error.offset)


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("content", [make_file("{}"), make_file("{]")])
def test_collector_left_as_found(enabled: bool, content: bytes) -> None:
    """Python's cycle collector is on after a parse exactly if it was on before, also after an error."""
    if not enabled:
        gc.disable()
    try:
        parse_file(content)
    except FormatError:
        pass
    finally:
        found = gc.isenabled()
        gc.enable()
    assert found is enabled


@pytest.mark.parametrize("fields", [("dtype", "shape", "data_offsets"), ("data_offsets", "dtype", "shape")])
@pytest.mark.parametrize("shuffled", [False, True])
def test_large_plain_header_is_fast(fields: tuple[str, ...], shuffled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers as writers write them take the fast path, whatever order their tensors and fields are in."""
    monkeypatch.delattr(safetensors, "_parse_any")
    shapes: tuple[list[int], ...] = ([2, 3], [6], [], [0, 7])
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    descriptions = []
    for number in range(20_000):
        shape = shapes[number % len(shapes)]
        nbytes = (6, 6, 1, 0)[number % len(shapes)]
        whole = describe("U8", shape, position, position + nbytes)
        descriptions.append((f"layers.{number}-x.weight", {field: whole[field] for field in fields}))
        position += nbytes
    if shuffled:
        random.Random(7).shuffle(descriptions)
    entries.update(descriptions)
    text = json.dumps(entries).encode()
    header = parse_header(text, Blob(URI, 8 + len(text) + position), 0)
    assert len(header.tensors) == 20_000
    assert header.tensors[-1].end == 8 + len(text) + position
