"""Processes that pull: see child_pull.py."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HANG_S = 60.0  # no pull of these tests takes nearly as long


@contextmanager
def start_child(uri: str, directory: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is about to pull; whatever happens, it is gone in the end."""
    command = [sys.executable, "-m", "tests.pulling.child_pull", uri, str(directory)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as child:
        try:
            assert hear(child) == "pulling"
            yield child
        finally:
            child.kill()


def hear(child: subprocess.Popen[str]) -> object:
    """The next word that it says; its standard error where it says nothing more."""
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        raise AssertionError(child.communicate(timeout=HANG_S)[1])
    return json.loads(line)


def finish(child: subprocess.Popen[str]) -> tuple[int, list[object], str]:
    """Waits for its end: exit code, what it said, and its standard error."""
    out, err = child.communicate(timeout=HANG_S)
    return child.returncode, [json.loads(line) for line in out.splitlines()], err
