"""Another interpreter for tests: a virtual environment with a few of this one's packages, and without slipstream."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path


def make_interpreter(folder: Path, distributions: Sequence[str]) -> Path:
    """Makes it, with links to those packages; returns its program.

    Args:
        folder: of the environment, which must not be there.
        distributions: those that it has.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = (folder / "lib").glob("python*/site-packages")
    for name in distributions:
        found = distribution(name)
        for top in {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}:
            (site / top).symlink_to(Path(str(found.locate_file(top))))
    return folder / "bin" / "python"


def make_distribution(folder: Path, name: str, module: str, source: str, entry_points: str = "") -> None:
    """Installs a distribution of one module into a folder, as pip would: the module, and its metadata."""
    (folder / f"{module}.py").write_text(source)
    metadata = folder / f"{name.replace('-', '_')}-1.2.3.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2.3\n")
    (metadata / "entry_points.txt").write_text(entry_points)
    (metadata / "RECORD").write_text(f"{module}.py,,\n")
