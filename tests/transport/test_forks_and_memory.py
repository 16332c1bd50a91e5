"""Loads over HTTP in processes of their own: forked ones, and one whose memory is measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from slipstream.testing.checkpoints import encode_header
from slipstream.types import Dtype
from tests.transport.serving import Served

ROOT = Path(__file__).parents[2]

FORKING = """
import json, os, signal, sys
import numpy, slipstream
url, storage = sys.argv[1], json.loads(sys.argv[2])
options = slipstream.Options(chunk_bytes=65536, concurrency=4)

def load():
    tensors = slipstream.load(url, framework="numpy", options=options, storage_options=storage)
    return {name: hash(tensor.tobytes()) for name, tensor in tensors.items()}

def in_child(work):
    pid = os.fork()
    if not pid:
        signal.alarm(20)
        try:
            work()
        except BaseException as error:
            print(type(error).__name__, error, flush=True)
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0, "the child failed"

expected = load()

def child():
    assert load() == expected
    print("child", flush=True)

def child_amid_a_load():
    try:
        next(stream)
    except slipstream.StreamClosedError:
        child()

in_child(child)
with slipstream.stream(url, framework="numpy", options=options, storage_options=storage) as stream:
    found = dict([next(stream)])
    in_child(child_amid_a_load)
    found.update(stream)
assert {name: hash(tensor.tobytes()) for name, tensor in found.items()} == expected
print("parent", flush=True)
"""

MEASURING = """
import json, sys
import numpy, slipstream

def read_kib(name):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(name))

before = read_kib("VmRSS")
tensors = slipstream.load(sys.argv[1], framework="numpy", storage_options=json.loads(sys.argv[2]))
print(sum(tensor.nbytes for tensor in tensors.values()), (read_kib("VmHWM") - before) * 1024)
"""


def run(program: str, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-P", "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_parents_and_children_load(served: Served) -> None:
    """A child loads after its parent did, and amid its parent's load, which goes on undisturbed."""
    assert run(FORKING, served.url, json.dumps(served.storage_options)).split() == ["child", "child", "parent"]


def test_memory_is_the_models_and_little_more(served: Served) -> None:
    """At the peak, a load takes the model's size and at most 64 MiB."""
    sizes = [40 << 20, 1 << 20, *([13 << 20] * 20), 3]
    path = served.root / "large.safetensors"
    header = encode_header([(f"{number}", Dtype.U8, (size,)) for number, size in enumerate(sizes)])
    with open(path, "wb") as file:
        file.write(header)
        file.truncate(len(header) + sum(sizes))  # zeros that take no room on the disk
    try:
        said = run(MEASURING, served.server.url(path.name), json.dumps(served.storage_options))
    finally:
        path.unlink()
    model, peak = map(int, said.split())
    assert model == sum(sizes)
    assert peak <= model + (64 << 20)
