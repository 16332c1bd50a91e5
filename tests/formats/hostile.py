"""Files that no loader may take: each gives a FormatError, and nothing else, however it is loaded.

`HOSTILE` is for any test that opens files: write the bytes somewhere and expect the error.
"""

from __future__ import annotations

from tests.formats.builders import describe, make_file

_ONE = '"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'


def _with_field(value: str) -> bytes:
    return make_file('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"q":' + value + "}}", b"x")


HOSTILE: list[tuple[str, bytes]] = [
    # Not a safetensors file, or not all of one.
    ("empty file", b""),
    ("seven bytes", b"\x02\0\0\0\0\0\0"),
    ("header of no bytes", bytes(8)),
    ("header longer than the file", make_file("{}", length=3)),
    ("header of 100 MB and a byte", make_file("{}", length=100_000_001)),
    ("header of 2^64-1 bytes", make_file("{}", length=2**64 - 1)),
    ("header of 2^63-8 bytes", make_file("{}", length=2**63 - 8)),
    ("zip archive", b"PK\x03\x04\x14\0\0\x08" + bytes(64)),
    ("Git LFS pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"),
    ("web page", b"<!DOCTYPE html><html><body>404</body></html>"),
    ("JSON", b'{"metadata": {}, "weight_map": {}}'),
    ("GGUF", b"GGUF\x03\0\0\0" + bytes(64)),
    ("pickle", b"\x80\x02}q\x00(X\x06\0\0\0weight" + bytes(64)),
    # Not JSON, or JSON meant to hurt.
    ("blank header", make_file("   ")),
    ("not JSON", make_file("{" + _ONE, b"x")),
    ("byte order mark", make_file("\ufeff{}")),
    ("trailing NULs", make_file("{}\0\0\0")),
    ("not UTF-8", make_file(b'{"\xff":{}}')),
    ("surrogate in UTF-8", make_file(b'{"\xed\xa0\x80":{}}')),
    ("half a surrogate pair", make_file('{"\\ud800' + _ONE[2:] + "}", b"x")),
    ("a million arrays deep", _with_field("[" * 1_000_000 + "]" * 1_000_000)),
    ("a million arrays, none closed", make_file("[" * 1_000_000)),
    ("a hundred thousand objects deep", _with_field('{"q":' * 100_000 + "1" + "}" * 100_000)),
    ("deep, with pairs that close again", _with_field('[{"q":[],"r":' * 500 + "1" + "}]" * 500)),
    ("deep behind brackets in strings", _with_field('["]]]]]]\\"",' * 500 + "1" + "]" * 500)),
    ("shape 100,000 deep", make_file('{"a":{"dtype":"U8","shape":' + "[" * 100_000 + "]" * 100_000 + "}}")),
    ("integer of a million digits", _with_field("9" * 1_000_000)),
    (
        "dimension of a million digits",
        make_file('{"a":{"dtype":"U8","shape":[' + "9" * 1_000_000 + '],"data_offsets":[0,1]}}', b"x"),
    ),
    ("exponent of a million digits", _with_field("1e" + "9" * 1_000_000)),
    ("fraction beyond a double", _with_field("9" * 400 + ".5")),
    ("infinity", _with_field("Infinity")),
    ("not a number", _with_field("NaN")),
    ("header is an array", make_file("[]")),
    ("header is null", make_file("null")),
    # Entries of the wrong kind.
    ("metadata with a number", make_file('{"__metadata__":{"k":1}}')),
    ("metadata twice", make_file('{"__metadata__":{},"__metadata__":{}}')),
    ("tensor twice", make_file("{" + _ONE + "," + _ONE + "}", b"x")),
    ("tensor twice, once escaped", make_file("{" + _ONE + ',"\\u0061' + _ONE[2:] + "}", b"x")),
    ("entry is null", make_file('{"a":null}')),
    ("entry without dtype", make_file('{"a":{"shape":[1],"data_offsets":[0,1]}}', b"x")),
    ("entry with dtype twice", make_file('{"a":{"dtype":"U8",' + _ONE[5:] + "}", b"x")),
    ("entry that imitates an object", make_file('{"a":[["dtype","U8"],["shape",[1]],["data_offsets",[0,1]]]}', b"x")),
    ("unknown dtype", make_file({"a": describe("F8_E4M3FN")}, b"x")),
    ("dtype is a list", make_file({"a": {**describe(), "dtype": ["U8"]}}, b"x")),
    ("shape is a string", make_file({"a": {**describe(), "shape": ""}}, b"x")),
    ("shape multiplies a string", make_file({"a": {**describe(), "shape": ["a", 2**40]}}, b"x")),
    ("dimension is true", make_file({"a": {**describe(), "shape": [True]}}, b"x")),
    ("dimension is 1.0", make_file({"a": {**describe(), "shape": [1.0]}}, b"x")),
    ("dimension is -0", make_file('{"a":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}}')),
    ("dimensions are negative", make_file({"a": describe(shape=[-1, -1])}, b"x")),
    ("three offsets", make_file({"a": {**describe(), "data_offsets": [0, 1, 2]}}, b"x")),
    # Arithmetic.
    ("more elements than 64 bits", make_file({"a": describe(shape=[2**32, 2**32], end=0)})),
    ("more elements than 64 bits, times 0", make_file({"a": describe(shape=[2**63, 2**63, 0], end=0)})),
    ("more bits than 64 bits", make_file({"a": describe(shape=[2**61], end=0)})),
    ("a hundred thousand huge dimensions", make_file({"a": describe(shape=[2**64 - 1] * 100_000)}, b"x")),
    ("dimension of 2^64", make_file({"a": describe(shape=[2**64], end=0)})),
    ("half a byte", make_file({"a": describe("F4", [3])}, b"x")),
    ("shape and bytes disagree", make_file({"a": describe("F32", [2], 0, 4)}, b"xxxx")),
    # Offsets.
    ("reversed offsets", make_file({"a": describe(begin=1, end=0)}, b"x")),
    ("negative offset", make_file({"a": describe(begin=-1, end=0)}, b"x")),
    ("offset beyond 64 bits", make_file({"a": describe(begin=2**64, end=2**64 + 1)}, b"x")),
    ("overlap", make_file({"a": describe(shape=[2], end=2), "b": describe(shape=[2], begin=1, end=3)}, b"xxx")),
    ("the same bytes twice", make_file({"a": describe(), "b": describe()}, b"x")),
    ("gap", make_file({"a": describe(), "b": describe(begin=2, end=3)}, b"xxx")),
    ("gap before the first", make_file({"a": describe(begin=1, end=2)}, b"xx")),
    ("points into the header", make_file({"a": describe(begin=-8, end=-7)}, b"x")),
    ("data cut short", make_file({"a": describe("F32", [2], 0, 8)}, b"xxxx")),
    ("no data at all", make_file({"a": describe("F32", [2**40], 0, 2**42)})),
    ("bytes behind the last tensor", make_file({"a": describe()}, b"xyz")),
    ("bytes and no tensor", make_file("{}", b"x")),
    # Names meant for the terminal or the log that the message ends up in.
    ("name with escapes", make_file({"\x1b[2J\x1b]0;owned\x07\nINFO all is well\u202e": describe("nope")}, b"x")),
    ("name of a megabyte", make_file({"n" * 1_000_000: describe("nope")}, b"x")),
    ("dtype of a megabyte", make_file({"a": describe("F" * 1_000_000)}, b"x")),
    ("dtype with escapes", make_file({"a": describe("\x1b[31m\n")}, b"x")),
]
