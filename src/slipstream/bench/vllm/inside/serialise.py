"""Serialises a model for vLLM's load format tensorizer, by vLLM's own recipe (`tensorize_vllm_model`).

Asked {"arguments": [...], "target": path}, it loads the model as vLLM does, writes it, and says "serialised".
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine is in this process, and so is what is set below


def main() -> None:
    """Serialises one model."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what vLLM prints is no answer
    asked = json.loads(sys.stdin.readline())
    try:
        _serialise(asked["arguments"], asked["target"])
        found = {"said": "serialised"}
    except Exception as error:
        traceback.print_exc()
        found = {"said": "failed", "reason": f"{type(error).__name__}: {error}"}
    print(json.dumps(found), file=answers, flush=True)
    os._exit(0)  # not torn down: that may hang, and what counts has been said


def _serialise(arguments: list[str], target: str) -> None:
    engine = importlib.import_module("vllm.engine.arg_utils")
    parsing = importlib.import_module("vllm.utils.argparse_utils")
    recipe = importlib.import_module("vllm.model_executor.model_loader.tensorizer")
    # It would fetch the files beside the weights from a hub by the model's name, also where that is a local path.
    setattr(recipe, "serialize_extra_artifacts", lambda *given, **named: None)  # noqa: B010
    parser = engine.EngineArgs.add_cli_args(parsing.FlexibleArgumentParser())
    recipe.tensorize_vllm_model(
        engine.EngineArgs.from_cli_args(parser.parse_args(arguments)),
        recipe.TensorizerConfig(tensorizer_uri=target),
        generate_keyfile=False,
    )


if __name__ == "__main__":
    main()
