"""One model served by one vLLM, and where what is found out of the two is kept."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipstream.bench.storages.base import PlacedModel
from slipstream.bench.vllm.formats import find_format
from slipstream.bench.vllm.side_files import CONFIG
from slipstream.bench.vllm.start import PROMPT, TOKENS, StartRequest

if TYPE_CHECKING:
    from slipstream.bench.models import Model
    from slipstream.bench.vllm.engine import Engine


@dataclass(frozen=True)
class Served:
    """One model, by one vLLM.

    Attributes:
        model: which.
        engine: which vLLM.
        arguments: what vLLM is started with, beside what says which model it is and how it is loaded.
    """

    model: Model
    engine: Engine
    arguments: tuple[str, ...]

    @property
    def cache(self) -> Path:
        """Where vLLM's own caches are, and the logs of starts that failed."""
        return self.model.cache / "vllm"

    @cached_property
    def folder(self) -> Path:
        """Where findings are kept, for these files, versions and arguments."""
        files = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in self.model.files]
        config = self.model.files[0].with_name(CONFIG)
        described = config.read_text(errors="replace") if config.exists() else ""
        engine = self.engine
        facts = [files, described, dict(engine.versions), engine.device, self.arguments, PROMPT, TOKENS]
        return self.cache / hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]

    def where_it_lies(self, copy: Path | None = None) -> PlacedModel:
        """The model where it is, with a copy for tensorizer."""
        return PlacedModel(
            model=self.model,
            uris=tuple(map(str, self.model.files)),
            files=self.model.files,
            tensorizer_uri=str(copy) if copy else None,
            tensorizer_file=copy,
        )

    def start_request(self, contender: str, placed: PlacedModel, *, health_timeout_s: float = 900.0) -> StartRequest:
        """What is started for a contender, with the model where it was placed."""
        return StartRequest(
            engine=self.engine,
            load_format=find_format(contender),
            placed=placed,
            arguments=self.arguments,
            cache=self.cache,
            health_timeout_s=health_timeout_s,
        )


def read_finding(path: Path) -> Mapping[str, Any] | None:
    """What was found out earlier; None where nothing was."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    assert isinstance(found, dict)
    return found


def keep_finding(path: Path, **found: object) -> None:
    """Keeps it, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    unfinished.write_text(json.dumps(found))
    unfinished.replace(path)
