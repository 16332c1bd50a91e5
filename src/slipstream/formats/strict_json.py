"""JSON exactly as serde_json reads it, decoded at the speed of the standard library.

The safetensors reference parses headers with serde_json, so what is valid JSON there decides what is a valid
file. Python's decoder takes more, and reads some of it differently; this module closes the difference:

    more than 127 levels     refused before decoding, so that no header can exhaust the C stack
    NaN, Infinity            refused
    beyond a double, 1e999   refused
    lone surrogates          refused, in any string
    bytes that are no UTF-8  refused, a byte order mark too
    -0                       the float -0.0, never the integer 0

An object comes back as a tuple of (key, value) pairs, because keys may repeat and only the caller knows
whether they may; an array comes back as a list, so the two cannot be confused.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from itertools import accumulate, islice
from json.decoder import JSONDecodeError
from typing import TypeAlias

Json: TypeAlias = "str | int | float | bool | list[Json] | JsonObject | None"
JsonObject: TypeAlias = "tuple[tuple[str, Json], ...]"

MAX_DEPTH = 127  # serde_json: `remaining_depth: 128`, and the level that brings it to 0 is refused

_NOT_STRUCTURE = bytes(set(range(256)) - set(b'[]{}"\\'))
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_DEPTH_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_PEELS = 4  # a header in its usual form has three levels
_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_SURROGATE = re.compile(rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F]|(u[dD][89a-fA-F])|.)", re.DOTALL)
_COLON = re.compile(rb"[ \t\r\n]*:")
_NUMBER = re.compile(r"-?(\d+)(?:\.(\d+))?(?:[eE]([+-]?)0*(\d+))?")
_NOT_PLAIN = re.compile(rb"[\[,:\s](?:-|true|false)")
_LONGEST_INT = 4300  # digits; Python's own default limit, which an application may have lifted


class JsonError(ValueError):
    """The text is not JSON that serde_json accepts.

    Attributes:
        reason: what is wrong, in words.
        offset: the byte in the text where it was noticed.
    """

    def __init__(self, reason: str, offset: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.offset = offset


class _NotPlainError(Exception):
    """The document holds what `decode_plain` leaves to `decode`."""


def decode(data: bytes) -> Json:
    """Decodes one JSON document with nothing but white space around it.

    Returns:
        the value; objects as tuples of pairs, arrays as lists.

    Raises:
        JsonError: anything serde_json refuses.
    """
    return _decode(data, parse_int=_exact_int, parse_float=_finite_float)


def decode_plain(data: bytes) -> Json:
    """Decodes documents of strings, integers from 0, arrays and objects, without a Python call per integer.

    Returns:
        the value; None for a document that may hold something else: `decode` it then. Integers beyond a double
        pass; `decode` refuses them.

    Raises:
        JsonError: as `decode`.
    """
    if any(word in data for word in (b"-", b"true", b"false")) and _NOT_PLAIN.search(data):
        return None
    if not 0 < sys.get_int_max_str_digits() <= _LONGEST_INT:  # converting a longer one takes quadratic time
        return None
    try:
        return _decode(data, parse_int=None, parse_float=_refuse_float)
    except _NotPlainError:
        return None


def find_key(data: bytes, key: str, occurrence: int = 1) -> int:
    """Returns the offset in a JSON text where an object's key is written; 0 where it is escaped in an unusual way.

    For messages: a key of the same name in another object may be taken for it.
    """
    for ensure_ascii in (False, True):
        written = json.dumps(key, ensure_ascii=ensure_ascii).encode()
        places = list(islice(_key_places(data, written), occurrence))
        if len(places) == occurrence:
            return places[-1]
    return 0


def _key_places(data: bytes, written: bytes) -> Iterator[int]:
    place = data.find(written)
    while place >= 0:
        if _COLON.match(data, place + len(written)):
            yield place
        place = data.find(written, place + 1)


def _decode(data: bytes, parse_int: Callable[[str], int | float] | None, parse_float: Callable[[str], float]) -> Json:
    try:
        text = str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise JsonError(f"it is not UTF-8 ({error.reason})", error.start) from error
    if _depth_exceeds(data, MAX_DEPTH):
        raise JsonError(f"it is nested more than {MAX_DEPTH} levels deep")
    decoder = json.JSONDecoder(
        object_pairs_hook=tuple, parse_int=parse_int, parse_float=parse_float, parse_constant=_refuse_constant
    )
    try:
        value: Json = decoder.decode(text)
    except JSONDecodeError as error:
        raise JsonError(_reason(error, text), len(text[: error.pos].encode())) from error
    except (JsonError, _NotPlainError):
        raise
    except ValueError as error:  # an integer of more digits than Python converts, so far beyond a double
        raise JsonError("it holds a number beyond the range of a double") from error
    _check_surrogates(data)
    return value


def _reason(error: JSONDecodeError, text: str) -> str:
    if text.startswith("\ufeff"):
        return "it starts with a byte order mark"
    if not text.strip(" \t\r\n"):
        return "it is blank"
    return f"it is not valid JSON ({error.msg[:1].lower()}{error.msg[1:]})"


def _depth_exceeds(data: bytes, limit: int) -> bool:
    """Whether arrays and objects are nested more than `limit` deep in the part of `data` that is JSON.

    Usual headers are settled by a few passes at memory speed: drop all but structure, drop empty strings
    (which all strings without brackets, quotes and backslashes have become), then peel innermost pairs.
    """
    structure = data.translate(None, _NOT_STRUCTURE).replace(b'""', b"")
    for _ in range(_PEELS):
        structure = structure.replace(b"[]", b"").replace(b"{}", b"")
    if not structure:
        return False
    outside_strings = b"".join(_ESCAPE.sub(b"", data).split(b'"')[::2])
    brackets = outside_strings.translate(None, _NOT_BRACKETS)
    return max(accumulate(map(_DEPTH_STEP.__getitem__, brackets)), default=0) > limit


def _check_surrogates(data: bytes) -> None:
    """Refuses an escaped surrogate without its other half. `data` is valid JSON: a backslash starts an escape."""
    if b"\\" not in data or (b"\\ud" not in data and b"\\uD" not in data):
        return
    for escape in _SURROGATE.finditer(data):
        if escape[1] is not None:
            raise JsonError("it holds half of a surrogate pair", escape.start())


def _exact_int(text: str) -> int | float:
    if text == "-0":
        return -0.0
    if len(text) > 308 and _exceeds_double(text):
        raise JsonError("it holds a number beyond the range of a double")
    return int(text)


def _finite_float(text: str) -> float:
    value = float(text)
    if not -1e308 < value < 1e308 and _exceeds_double(text):
        raise JsonError("it holds a number beyond the range of a double")
    return value


def _exceeds_double(text: str) -> bool:
    """Whether serde_json finds this number, of about 1e308 or more, out of range.

    It keeps the leading digits that fit 64 bits, scales them in floating point, and so refuses some numbers just
    below the largest double that Python rounds down to it (`f64_from_parts` in serde_json's de.rs).
    """
    number = _NUMBER.fullmatch(text)
    assert number is not None
    whole, fraction, sign, power = number[1], number[2] or "", number[3], number[4] or "0"
    if len(power) > 9:
        return sign != "-"
    digits = (whole + fraction).lstrip("0")
    kept = digits[:20] if int(digits[:20]) < 2**64 else digits[:19]
    exponent = int((sign or "") + power) - len(fraction) + len(digits) - len(kept)
    return int(kept) * float(f"1e{exponent}") == float("inf")


def _refuse_float(text: str) -> float:
    raise _NotPlainError


def _refuse_constant(text: str) -> float:
    raise JsonError(f"it holds {text}, which JSON does not have")
