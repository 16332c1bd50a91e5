"""What vLLM needs beside the weights: config.json and a tokenizer. A tokenizer is made where the checkpoint has none.

A synthetic checkpoint has a configuration and no tokenizer. The one made for it knows the 256 bytes, and calls every
other number of the model's vocabulary by that number, so that whatever the model answers can be told apart.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipstream.bench.errors import BenchError

if TYPE_CHECKING:
    from slipstream.bench.models import Model

CONFIG = "config.json"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json", "vocab.txt")
_SUFFIXES = frozenset({".json", ".model", ".txt", ".jinja", ".tiktoken"})
_LARGEST_BYTES = 256 << 20
_LEAST_VOCABULARY = 300
_LONGEST_PROMPT = 2048


def write_side_files(model: Model, folder: Path) -> None:
    """Copies what lies beside a model's weights into a folder that is there, and a tokenizer if there is none.

    Raises:
        BenchError: there is no config.json, or it does not say how large the vocabulary is.
    """
    source = model.files[0].parent
    if not (source / CONFIG).is_file():
        raise BenchError(
            f"{source} has no {CONFIG}, without which vLLM cannot serve it; take a whole model folder as --model"
        )
    for file in sorted(source.iterdir()):
        if file.suffix in _SUFFIXES and file.is_file() and file.stat().st_size <= _LARGEST_BYTES:
            shutil.copyfile(file, folder / file.name)
    if not any((folder / name).exists() for name in _TOKENIZERS):
        config = _read_config(folder / CONFIG)
        for name, content in make_tokenizer(config).items():
            (folder / name).write_text(json.dumps(content), encoding="utf-8")


def make_tokenizer(config: dict[str, Any]) -> dict[str, object]:
    """The contents of tokenizer.json and tokenizer_config.json for a model with this config.json.

    Raises:
        BenchError: the vocabulary is too small for the 256 bytes, or not given.
    """
    size = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size")
    if not isinstance(size, int) or size < _LEAST_VOCABULARY:
        raise BenchError(
            f"no tokenizer can be made for a vocabulary of {size!r}; put the model's own tokenizer beside its weights"
        )
    begin, end = (_first_id(config.get(f"{name}_token_id")) for name in ("bos", "eos"))
    special = {number: text for number, text in ((begin, "<|begin|>"), (end, "<|end|>")) if number is not None}
    characters = iter(_byte_characters())
    vocabulary = {next(characters, None) or f"<{number}>": number for number in range(size) if number not in special}
    added = [
        {
            "id": number,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for number, text in special.items()
    ]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer: dict[str, object] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {"type": "BPE", "unk_token": None, "byte_fallback": False, "vocab": vocabulary, "merges": []},
    }
    names = {"bos_token": begin, "eos_token": end}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.get("max_position_embeddings", _LONGEST_PROMPT),
        **{name: special[number] for name, number in names.items() if number is not None},
    }
    return {"tokenizer.json": tokenizer, "tokenizer_config.json": settings}


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BenchError(f"{path} is no JSON: {error}") from error
    if not isinstance(config, dict):
        raise BenchError(f"{path} is no JSON object")
    return config


def _first_id(given: object) -> int | None:
    if isinstance(given, list) and given:
        given = given[0]
    return given if isinstance(given, int) else None


def _byte_characters() -> Iterator[str]:
    """The character that stands for each byte in a byte-level vocabulary, as GPT-2 has it (its `bytes_to_unicode`)."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    for byte in range(256):
        yield chr(byte if byte in printable else next(others))
