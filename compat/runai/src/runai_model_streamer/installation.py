"""Notices an installation in which the files of two packages lie in one folder, and says how to have one of them.

pip lets a package overwrite the files of another. Removing either then takes files of both.
"""

from __future__ import annotations

import logging
from importlib.metadata import distributions
from pathlib import Path

_ORIGINALS = (
    "runai-model-streamer",
    "runai-model-streamer-s3",
    "runai-model-streamer-gcs",
    "runai-model-streamer-azure",
)


def refuse_mixture(folder: Path) -> None:
    """Refuses to be imported from among the original's files.

    Args:
        folder: where this package lies. The original in another folder of `sys.path` is no matter: it is in the shade.

    Raises:
        ImportError: the original is installed there too. As some programs take an ImportError for "not installed" and
            say something else, it is logged too.
    """
    found = [name for name in _ORIGINALS if any(distributions(name=name, path=[str(folder)]))]
    if not found:
        return
    names = " ".join(found)
    text = (
        f"slipstream-runai was installed over {', '.join(found)}: their files are mixed in {folder}. Remove both, then "
        f"install one:\n"
        f"    pip uninstall -y slipstream-runai {names} && pip install slipstream-runai    # loads with slipstream\n"
        f"    pip uninstall -y slipstream-runai {names} && pip install {names}    # the original"
    )
    logging.getLogger(__package__).error(text)
    raise ImportError(text, name=__package__)
