"""Files that differ from a valid one in one way each, as (label, bytes). Some are valid, most are not.

Which is which is the reference's word: `test_reference.py` asks it. Where an answer is certain, see `hostile.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.formats.builders import make_file

Case = tuple[str, bytes]

SCALAR = '"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]}'
GOOD = '"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'

# JSON values, and what is nearly one, to stand where something else is expected.
# fmt: off
TOKENS = (
    "null", "true", "false", "0", "1", "-0", "-1", "1.0", "1e0", "0.0", "-0.0", "01", "+1", ".5", "1.", "1e", "-",
    "--1", "1E5", "1e+5", "1e-5", "0e999", "1e-999", "1e308", "1e309", "-1e309", "1e999",
    "0e99999999999999", "1e99999999999",
    # Around the largest double, where serde_json and Python round differently.
    "1.7976931348623157e308", "1.7976931348623158e308", "1.7976931348623159e308", "17976931348623157e292",
    "179.7693134862315704e306", "0.17976931348623157083e309", "0.00017976931348623158000e312",
    "17976931348623156480e289", "179769313486231580000e288",
    "0." + "0" * 200 + "1e400", "1" + "0" * 400 + "e-400", "1" + "0" * 400 + ".5e-400",
    "9" * 308, "-" + "9" * 308, "1" + "0" * 308, "1" + "0" * 309, "9" * 309, "9" * 4300, "9" * 5000,
    "17976931348623157" + "0" * 292, "17976931348623158" + "0" * 292,
    "4294967296", "9223372036854775807", "9223372036854775808", "18446744073709551615", "18446744073709551616",
    "-9223372036854775808", "-9223372036854775809", "NaN", "Infinity", "-Infinity", "nan", "tru", "nul", "undefined",
    "", '""', '"U8"', '"1"', '"u8"', '"F4"', "'U8'", '"\\ud83d\\ude00"', '"\\ud83d"', '"\\ude00"', '"\\ud83d\\u0041"',
    '"\\\\ud800"', '"\\uD800\\uDC00\\uDC00"', '"\\u00G0"', '"\\u0041"', '"\\x41"', '"\\/"', '"\\"', '"\\u0000"',
    '"\x00"', '"\x1f"', '"\x7f"', '"\ud800"', "[]", "{}", "[[]]", "[{}]", '{"a":1}', '{"0":0,"1":1}', '["U8"]',
    '{"U8":null}', '{"U8":{}}', '{"U8":[]}', '{"U8":1}', '{"U8":null,"U8":null}', '{"X":null}',
    "[0]", "[1]", "[0,1]", "[1,0]", "[0,0]", "[0,1,2]", "[0,1,]", "[,]", "[true]", "[1.0]", "[null]", '["1"]', "[[1]]",
    "[-0]", "[0,-1]", "[0,true]", "[1,1,1,1]", "[0,18446744073709551615]", "[18446744073709551616]",
    *("[" * depth + "]" * depth for depth in (10, 124, 125, 126, 127, 128, 1000)),
    *('{"q":' * depth + "1" + "}" * depth for depth in (10, 124, 125, 126, 127)),
    '[{"q":[[],' * 41 + "[],[]" + "]}]" * 41,
    '"' + "[" * 1000 + '"',
    '"' + '\\"[' * 1000 + '"',
)
# fmt: on


# fmt: off
_TWIN = GOOD.replace('"a"', '"b"').replace("[0,1]", "[1,2]")
_FORMS = (
    "", " ", "{", "}", "{}", "{},", "{}{}", "[]", " {} ", "\n\t\r {}\n\t\r ", "{}\x0c", "{}\x00", "\ufeff{}",
    "{" + GOOD + "}", "{" + GOOD + ",}", "{," + GOOD + "}", "{" + GOOD + "," + _TWIN + "}",
    "{" + GOOD + " " + _TWIN + "}", "{" + _TWIN + "," + GOOD + "}", "{" + _TWIN + "," + GOOD[:-1] + ',"q":1}}',
    "{" + GOOD.replace(",", " , ").replace(":", "\t:\n") + "}",
    # Entries as arrays, or in part.
    '{"a":["U8",[1],[0,1]]}', '{"a":["U8",[1]]}', '{"a":[{"U8":null},[1],[0,1]]}', '{"a":{"0":"U8","1":[1],"2":[0,1]}}',
    '{"a":[["dtype","U8"],["shape",[1]],["data_offsets",[0,1]]]}', '{"a":{"dtype":"U8","shape":[1]}}',
    '{"a":{"shape":[1],"data_offsets":[0,1]}}', '{"a":{"dtype":"U8","data_offsets":[0,1]}}',
    # Keys in another order, escaped, repeated, or in another case.
    '{"a":{"data_offsets":[0,1],"shape":[1],"dtype":"U8"}}', '{"a":{"shape":[1],"dtype":"U8","data_offsets":[0,1]}}',
    '{"a":{"\\u0064type":"U8","shape":[1],"data_offsets":[0,1]}}', '{"\\u0061":' + GOOD[4:] + "}",
    '{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}', '{"a":{"Dtype":"U8",' + GOOD[18:] + "}",
    '{"a":{"dtype":"U8","shape":[1],"shape":[1],"data_offsets":[0,1]}}', "{" + GOOD[:-1] + ',"data_offsets":[0,1]}}',
    # Metadata.
    '{"__metadata__":{"k":"1","k":"2"},' + GOOD + "}", '{"__metadata__":{"k":1,"k":"2"},' + GOOD + "}",
    '{"__metadata__":{},"__metadata__":{},' + GOOD + "}", '{"__metadata__":null,"__metadata__":null,' + GOOD + "}",
    '{"\\u005f_metadata__":{"k":"v"},' + GOOD + "}", '{"__metadata__":{"__metadata__":"v"},' + GOOD + "}",
    "{" + GOOD + ',"__metadata__":{"k":"v"}}', '{"__metadata__":' + GOOD[4:] + "}",
    "{" + GOOD[:-1] + ',"__metadata__":1}}',
    # Names and shapes.
    '{"":' + GOOD[4:] + "}", '{"' + "n" * 10_000 + '":' + GOOD[4:] + "}", '{"\U0001f600 \u00e4[{":' + GOOD[4:] + "}",
    '{"-1, true":' + GOOD[4:] + "}", GOOD.replace("[1]", "[" + ",".join(["1"] * 100) + "]").join("{}"),
)
# fmt: on


def one_token_cases() -> Iterator[Case]:
    """Every token in every place of a header."""
    places = {
        "dtype": '{"a":{"dtype":%s,"shape":[1],"data_offsets":[0,1]}}',
        "shape": '{"a":{"dtype":"U8","shape":%s,"data_offsets":[0,1]}}',
        "dimension": '{"a":{"dtype":"U8","shape":[1,%s],"data_offsets":[0,1]}}',
        "dimension after equal": "{" + GOOD + ',"b":{"dtype":"U8","shape":[%s],"data_offsets":[1,2]}}',
        "shape after scalar": "{" + SCALAR + ',"b":{"dtype":"U8","shape":%s,"data_offsets":[1,2]}}',
        "offsets": '{"a":{"dtype":"U8","shape":[1],"data_offsets":%s}}',
        "begin": '{"a":{"dtype":"U8","shape":[1],"data_offsets":[%s,1]}}',
        "end": '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,%s]}}',
        "unknown field": '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"q":%s}}',
        "repeated unknown field": '{"a":{"q":%s,"dtype":"U8","q":0,"shape":[1],"data_offsets":[0,1]}}',
        "entry": '{"a":%s}',
        "entry beside": "{" + GOOD + ',"b":%s}',
        "metadata": '{"__metadata__":%s,' + GOOD + "}",
        "metadata value": '{"__metadata__":{"k":%s},' + GOOD + "}",
        "document": "%s",
        "array entry's dtype": '{"a":[%s,[1],[0,1]]}',
        "array entry's shape": '{"a":["U8",%s,[0,1]]}',
        "array entry's offsets": '{"a":["U8",[1],%s]}',
        "array entry's fourth": '{"a":["U8",[1],[0,1],%s]}',
        "trailing": "{" + GOOD + "}%s",
        "name": "{%s" + GOOD[3:] + "}",
    }
    for place, template in places.items():
        for number, token in enumerate(TOKENS):
            data = b"xx" if '"b"' in template else b"x"
            yield f"{place} {number} {token[:30]}", make_file(template.replace("%s", token), data)


def form_cases() -> Iterator[Case]:
    """Odd forms of headers whose values are good."""
    for number, text in enumerate(_FORMS):
        for data in (b"", b"x", b"xx"):
            yield f"form {number} with {len(data)} bytes: {text[:40]!r}", make_file(text, data)


def layout_cases() -> Iterator[Case]:
    """Dtypes, shapes and offsets that agree, or do not."""
    for name in (
        "BOOL",
        "F4",
        "F6_E2M3",
        "F6_E3M2",
        "U8",
        "I8",
        "F8_E5M2",
        "F8_E4M3",
        "F8_E8M0",
        "F8_E4M3FNUZ",
        "F8_E5M2FNUZ",
    ):
        yield from _sized_cases(name)
    for name in (
        "I16",
        "U16",
        "F16",
        "BF16",
        "I32",
        "U32",
        "F32",
        "C64",
        "F64",
        "I64",
        "U64",
        "F8_E4M3FN",
        "F8E4M3",
        "I4",
        "C128",
        "u8",
    ):
        yield from _sized_cases(name)
    huge = (2**32, 2**61 - 1, 2**61, 2**62, 2**63, 2**64 - 1)
    for dtype in ("U8", "F4", "F64"):
        for shape in (
            *([h] for h in huge),
            *([0, h, h] for h in huge),
            *([h, h, 0] for h in huge),
            [2**32, 2**31, 0],
            [1, 0, 2**64 - 1],
        ):
            yield f"{dtype} {shape}", make_file({"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, 0]}})
    pairs = ([0, 0], [0, 1], [1, 1], [1, 2], [2, 2], [0, 2], [2, 3], [1, 0], [2, 1], [1, 2**64 - 1])
    for first in pairs:
        for second in pairs:
            entries = {
                name: {"dtype": "U8", "shape": [abs(end - begin)], "data_offsets": [begin, end]}
                for name, (begin, end) in (("a", first), ("b", second))
            }
            yield f"offsets {first} {second}", make_file(entries, b"xx")


def _sized_cases(dtype: str) -> Iterator[Case]:
    for shape in ([], [1], [2], [3], [4], [8], [2, 2], [0], [0, 5]):
        for size in (0, 1, 2, 3, 4, 8, 16, 32, 64):
            yield (
                f"{dtype} {shape} in {size}",
                make_file({"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}, b"x" * size),
            )


def byte_cases() -> Iterator[Case]:
    """One valid file, cut everywhere, and with each byte changed in several ways."""
    valid = make_file(
        '{"__metadata__":{"k":"v"},' + GOOD + ',"\u00e4":{"dtype":"F16","shape":[1],"data_offsets":[1,3]}}', b"xyz"
    )
    for position in range(len(valid) + 1):
        yield f"cut at {position}", valid[:position]
        yield f"one more at {position}", valid[:position] + b"1" + valid[position:]
        yield f"one less at {position}", valid[:position] + valid[position + 1 :]
    for position in range(len(valid)):
        for byte in (
            0,
            ord('"'),
            ord("0"),
            ord("9"),
            ord("["),
            ord("}"),
            0x80,
            0xFF,
            valid[position] ^ 1,
            valid[position] ^ 0x20,
        ):
            yield f"byte {byte} at {position}", valid[:position] + bytes([byte]) + valid[position + 1 :]
    for length in (0, 1, 7, 8, 100_000_000, 100_000_001, 2**32, 2**63, 2**64 - 1):
        yield f"length {length}", make_file("{}", length=length)


def all_cases() -> Iterator[Case]:
    """The whole corpus, several thousand files."""
    yield from one_token_cases()
    yield from form_cases()
    yield from layout_cases()
    yield from byte_cases()
