"""What may not be read is an AccessDeniedError, whichever part of a checkpoint it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from slipstream import AccessDeniedError
from tests.streaming.random_checkpoints import write_flat

NOBODY = 65_534

# Runs as nobody, for whom permissions count. Everything is imported before, as nobody may not read the modules.
_ASK_AS_NOBODY = f"""
import json, os, sys
import slipstream
paths = json.loads(sys.argv[1])
slipstream.load(paths.pop("readable"))
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid({NOBODY})
    os.setuid({NOBODY})
answers = {{}}
for kind, path in paths.items():
    try:
        slipstream.inspect(path)
        answers[kind] = ["nothing", False, "", ""]
    except Exception as error:
        name = type(error).__name__
        answers[kind] = [name, isinstance(error, PermissionError), getattr(error, "uri", None), str(error)]
print(json.dumps(answers))
"""


def test_permissions() -> None:
    """Files, directories and indexes that may not be read are AccessDeniedErrors that name them."""
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path, which only its owner may enter
        root = Path(folder)
        root.chmod(0o755)
        for name in ("open", "unlistable", "closed", "indexed", "hub"):
            (root / name).mkdir()
            write_flat(root / name / "a.safetensors", {"x": 1})
        (root / "indexed" / "model.safetensors.index.json").write_text('{"weight_map": {"x": "a.safetensors"}}')
        (root / "indexed" / "model.safetensors.index.json").chmod(0)
        (root / "hub" / "refs").mkdir()
        (root / "hub" / "snapshots").mkdir()
        (root / "hub" / "refs" / "main").write_text("a")
        (root / "hub" / "refs" / "main").chmod(0)
        (root / "file").mkdir()
        write_flat(root / "file" / "a.safetensors", {"x": 1})
        (root / "file" / "a.safetensors").chmod(0)
        (root / "unlistable").chmod(0o311)
        (root / "closed").chmod(0)
        paths = {
            "readable": root / "open" / "a.safetensors",
            "file": root / "file" / "a.safetensors",
            "directory of file": root / "file",
            "unlistable": root / "unlistable",
            "closed": root / "closed",
            "in closed": root / "closed" / "a.safetensors",
            "index": root / "indexed",
            "hub": root / "hub",
        }
        try:
            ended = subprocess.run(
                [sys.executable, "-c", _ASK_AS_NOBODY, json.dumps({kind: str(path) for kind, path in paths.items()})],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        finally:
            for name in ("unlistable", "closed"):
                (root / name).chmod(0o755)
    assert ended.returncode == 0, ended.stderr
    answers = json.loads(ended.stdout)
    kinds = {kind: answer[:2] for kind, answer in answers.items()}
    assert kinds == {kind: [AccessDeniedError.__name__, True] for kind in paths if kind != "readable"}
    assert answers["file"][2] == str(paths["file"])
    assert all("permission" in answer[3] for answer in answers.values())
