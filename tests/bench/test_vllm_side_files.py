"""What lies beside the weights: copied as it is, and a tokenizer for checkpoints that have none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slipstream.bench.errors import BenchError
from slipstream.bench.models import Model, find_model
from slipstream.bench.vllm.side_files import make_tokenizer, write_side_files
from slipstream.testing.synthetic import write_checkpoint


@pytest.fixture
def model(tmp_path: Path) -> Model:
    write_checkpoint("llama-tiny", tmp_path / "model", layers=1, shards=2)
    return find_model(str(tmp_path / "model"), tmp_path / "cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "side").mkdir()
    return tmp_path / "side"


def tokenizer_of(config: dict[str, Any]) -> dict[str, Any]:
    content = make_tokenizer(config)["tokenizer.json"]
    assert isinstance(content, dict)
    return content


def test_configuration_and_index_are_copied_and_a_tokenizer_is_made(model: Model, folder: Path) -> None:
    write_side_files(model, folder)
    assert sorted(file.name for file in folder.iterdir()) == [
        "config.json",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert (folder / "config.json").read_bytes() == (model.files[0].parent / "config.json").read_bytes()


def test_a_tokenizer_that_is_there_is_not_replaced(model: Model, folder: Path) -> None:
    (model.files[0].parent / "tokenizer.json").write_text("the model's own")
    write_side_files(model, folder)
    assert (folder / "tokenizer.json").read_text() == "the model's own"
    assert not (folder / "tokenizer_config.json").exists()


def test_nothing_is_written_into_the_models_own_folder(model: Model, folder: Path) -> None:
    before = sorted(model.files[0].parent.iterdir())
    write_side_files(model, folder)
    assert sorted(model.files[0].parent.iterdir()) == before


def test_every_number_of_the_vocabulary_has_a_name_of_its_own() -> None:
    tokenizer = tokenizer_of({"vocab_size": 2048, "bos_token_id": 1, "eos_token_id": [2, 5]})
    added = {each["content"]: each["id"] for each in tokenizer["added_tokens"]}
    assert added == {"<|begin|>": 1, "<|end|>": 2}
    assert sorted({**tokenizer["model"]["vocab"], **added}.values()) == list(range(2048))


def test_every_byte_can_be_said_and_ascii_stands_for_itself() -> None:
    vocabulary = tokenizer_of({"vocab_size": 300})["model"]["vocab"]
    assert set(map(chr, range(ord("!"), ord("~") + 1))) <= set(vocabulary)
    assert len([token for token in vocabulary if len(token) == 1]) == 256


def test_a_configuration_with_its_text_model_inside_is_understood() -> None:
    assert len(tokenizer_of({"text_config": {"vocab_size": 512}})["model"]["vocab"]) == 512


@pytest.mark.parametrize("config", [{}, {"vocab_size": 10}, {"vocab_size": "many"}])
def test_a_vocabulary_that_no_tokenizer_can_be_made_for_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(BenchError, match="put the model's own tokenizer beside its weights"):
        make_tokenizer(config)


@pytest.mark.parametrize(("content", "reason"), [("{", "is no JSON: "), ("[]", "is no JSON object")])
def test_a_broken_configuration_is_named(model: Model, folder: Path, content: str, reason: str) -> None:
    (model.files[0].parent / "config.json").write_text(content)
    with pytest.raises(BenchError, match=f"config.json {reason}"):
        write_side_files(model, folder)
