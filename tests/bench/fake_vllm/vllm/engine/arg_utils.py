"""Arguments of an engine."""

from __future__ import annotations

import argparse
from dataclasses import dataclass


@dataclass
class EngineArgs:
    model: str

    @staticmethod
    def add_cli_args(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
        parser.add_argument("--model", required=True)
        parser.add_argument("--enforce-eager", action="store_true")
        for name in ("--max-model-len", "--max-num-seqs", "--max-num-batched-tokens"):
            parser.add_argument(name, type=int)
        return parser

    @classmethod
    def from_cli_args(cls, arguments: argparse.Namespace) -> EngineArgs:
        return cls(model=arguments.model)
