"""What must be installed, of which version."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from slipstream.errors import MissingDependencyError

# The first that takes a state dict of values that are read when they are asked for, and converts it.
_OLDEST_TRANSFORMERS = 5
TRIED = "5.19"


def require_transformers() -> None:
    """
    Raises:
        MissingDependencyError: no transformers, one that is too old, or no PyTorch.
    """
    found = _find_version("transformers")
    if found is None:
        raise MissingDependencyError('transformers is not installed: pip install "slipstream[transformers]"')
    if int(found.partition(".")[0]) < _OLDEST_TRANSFORMERS:
        raise MissingDependencyError(
            f"transformers {found} is too old, its from_pretrained works otherwise: pip install "
            f'"transformers>={_OLDEST_TRANSFORMERS}" (tried with {TRIED})'
        )
    if _find_version("torch") is None:
        raise MissingDependencyError('PyTorch is not installed: pip install "slipstream[transformers]"')


def require_peft() -> None:
    """
    Raises:
        MissingDependencyError: no peft.
    """
    if _find_version("peft") is None:
        raise MissingDependencyError('adapters take peft, which is not installed: pip install "peft>=0.20"')


def _find_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
