"""The layouts are those of the published models."""

from __future__ import annotations

import re

import pytest

from slipstream.errors import UsageError
from slipstream.testing.layouts import LAYOUTS, find_layout
from slipstream.types import Dtype


def test_llama_3_8b_is_the_published_model() -> None:
    """llama-3-8b has 291 tensors and 16.06 GB, with the published names and shapes, all BF16."""
    specs = find_layout("llama-3-8b").specs()
    shapes = {spec.name: spec.shape for spec in specs}
    assert len(specs) == len(shapes) == 291
    assert sum(spec.nbytes for spec in specs) == 16_060_522_496
    assert {spec.dtype for spec in specs} == {Dtype.BF16}
    assert shapes["model.embed_tokens.weight"] == shapes["lm_head.weight"] == (128256, 4096)
    assert shapes["model.layers.31.self_attn.q_proj.weight"] == (4096, 4096)
    assert shapes["model.layers.31.self_attn.k_proj.weight"] == (1024, 4096)
    assert shapes["model.layers.31.mlp.down_proj.weight"] == (4096, 14336)
    assert shapes["model.layers.31.mlp.up_proj.weight"] == (14336, 4096)
    assert shapes["model.norm.weight"] == (4096,)


def test_llama_3_2_1b_is_the_published_model() -> None:
    """llama-3.2-1b has 146 tensors and 1,235,814,400 parameters, and no head of its own."""
    specs = find_layout("llama-3.2-1b").specs()
    assert len(specs) == 146
    assert sum(spec.nbytes for spec in specs) == 2 * 1_235_814_400
    assert "lm_head.weight" not in {spec.name for spec in specs}


def test_moe_small_is_tens_of_thousands_of_small_tensors() -> None:
    """Nearly all of moe-small's tensors take 4 KiB each."""
    specs = find_layout("moe-small").specs()
    assert len(specs) > 80_000
    assert sum(spec.nbytes == 4096 for spec in specs) > 0.95 * len(specs)


@pytest.mark.parametrize("name", LAYOUTS)
def test_summary_counts_what_is_there(name: str) -> None:
    """The numbers that a layout's summary tells people are those of its tensors."""
    layout = LAYOUTS[name]
    specs = layout.specs()
    nbytes = sum(spec.nbytes for spec in specs)
    count, size, unit = re.search(r"([\d,]+) tensors.*?([\d.]+) ([MG]B)", layout.summary).groups()  # type: ignore[union-attr]
    assert int(count.replace(",", "")) == len(specs)
    assert float(size) == pytest.approx(nbytes / {"MB": 1e6, "GB": 1e9}[unit], rel=0.002)


@pytest.mark.parametrize("name", LAYOUTS)
def test_fewer_layers_keep_what_is_outside_of_layers(name: str) -> None:
    """A model cut down to its first layer keeps embeddings, final norm and head, in model order, unchanged."""
    layout = LAYOUTS[name]
    whole, cut = layout.specs(), layout.specs(1)
    assert set(cut) <= set(whole)
    assert [spec for spec in cut if ".layers." not in spec.name] == [s for s in whole if ".layers." not in s.name]
    assert {spec for spec in whole if ".layers.0." in spec.name} <= set(cut)
    assert layout.config(1)["num_hidden_layers"] == 1


@pytest.mark.parametrize("layers", [0, -1, 33])
def test_layers_the_model_does_not_have(layers: int) -> None:
    """Asking for more or fewer layers than a model has is wrong usage, and the message says how many there are."""
    with pytest.raises(UsageError, match="1 to 32 layers"):
        find_layout("llama-3-8b").specs(layers)


def test_unknown_layout_lists_the_known() -> None:
    """An unknown name is wrong usage, and the message lists every layout."""
    with pytest.raises(UsageError) as caught:
        find_layout("llama-9")
    assert all(name in str(caught.value) for name in LAYOUTS)
