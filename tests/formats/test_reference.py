"""The parser beside the reference implementation: the same files accepted, and read the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.errors import FormatError
from tests.formats import corpus
from tests.formats.builders import make_file, parse_file
from tests.formats.mutations import mutated_files
from tests.formats.reference import Reading, read_by_reference, repeats_a_tensor


def read_by_slipstream(content: bytes) -> Reading | None:
    try:
        header = parse_file(content)
    except FormatError:
        return None
    positions = [(tensor.start, tensor.end) for tensor in header.tensors]
    assert positions == sorted(positions)
    tensors = {t.name: (t.dtype.value, t.shape, content[t.start : t.end]) for t in header.tensors}
    assert len(tensors) == len(header.tensors)
    return Reading(tensors, header.metadata)


def difference(content: bytes) -> str | None:
    """How the two readings differ, None where they agree."""
    expected, found = read_by_reference(content), read_by_slipstream(content)
    if expected is not None and repeats_a_tensor(content):
        expected = None  # the one deliberate difference
    if expected == found:
        return None
    return f"the reference says {expected}, slipstream {found}"


@pytest.mark.parametrize(
    "cases",
    [corpus.one_token_cases, corpus.form_cases, corpus.layout_cases, corpus.byte_cases],
    ids=lambda c: c.__name__,
)
def test_corpus(cases: Callable[[], Iterator[corpus.Case]]) -> None:
    """Every file of the corpus is accepted exactly if the reference accepts it, and reads the same."""
    differences = {label: difference(content) for label, content in cases()}
    assert {label: text for label, text in differences.items() if text is not None} == {}


def test_corpus_has_both_kinds() -> None:
    """The corpus holds hundreds of files of either kind, so that agreement means something."""
    accepted = [read_by_slipstream(content) is not None for _, content in corpus.all_cases()]
    assert sum(accepted) > 300
    assert len(accepted) - sum(accepted) > 1000


@settings(max_examples=2000, deadline=None, database=None)
@given(content=mutated_files())
def test_mutations(content: bytes) -> None:
    """Headers mutated at random in structure and bytes are accepted exactly if the reference accepts them."""
    assert difference(content) is None


@settings(max_examples=300, deadline=None, database=None)
@given(
    names=st.lists(st.text(), unique=True, max_size=5),
    metadata=st.dictionaries(st.text(), st.text()),
    ascii_only=st.booleans(),
)
def test_any_text(names: list[str], metadata: dict[str, str], ascii_only: bool) -> None:
    """Names and metadata of any characters come back as the reference gives them."""
    entries = {
        name: {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]}
        for i, name in enumerate(name for name in names if name != "__metadata__")
    }
    text = json.dumps({"__metadata__": metadata, **entries}, ensure_ascii=ascii_only)
    content = make_file(text, b"x" * len(entries))
    assert difference(content) is None
