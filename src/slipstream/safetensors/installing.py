"""Makes code that was written for safetensors read through slipstream, for as long as it is wanted.

    with slipstream.safetensors.install():
        model = AutoModel.from_pretrained("model/")

One object is replaced: the class `safe_open`, by a stand-in, in every module that has it as a global under whatever
name: in safetensors itself, whose `load_file` and `load_model` open files with it, and in everything that has
imported it. What is imported meanwhile takes the stand-in from safetensors, and is found when all is undone.

The stand-in looks each time whether an installation is there. So a copy of it that no search finds (a default argument,
a closure, an attribute) is safetensors' own again, too, once the last installation has gone.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from slipstream.errors import MissingDependencyError, UsageError
from slipstream.options import Options
from slipstream.safetensors.arguments import is_delivered
from slipstream.safetensors.opening import safe_open

if TYPE_CHECKING:
    from slipstream.safetensors.arguments import Device


class Installation:
    """That safetensors' readers are slipstream's, from `install` until `uninstall` or the end of a `with` block.

    It holds for the whole process, in all threads. Installations may overlap in any way: what is opened goes by the
    options of the latest, and everything is undone when the last one ends.

    Attributes:
        options: how what is opened reads; None are the defaults of that moment.
        storage_options: how it reaches object stores.
    """

    def __init__(self, options: Options | None, storage_options: Mapping[str, object] | None) -> None:
        self.options = options
        self.storage_options = storage_options

    def __enter__(self) -> Self:
        if self not in _replacement.installations:
            raise UsageError("this installation has been undone: call install() for another one")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.uninstall()

    def __repr__(self) -> str:
        return f"<Installation {'active' if self in _replacement.installations else 'undone'}>"

    def uninstall(self) -> None:
        """Ends it. Files that are open stay so, and read as they did. Safe to call again."""
        _replacement.remove(self)


def install(*, options: Options | None = None, storage_options: Mapping[str, object] | None = None) -> Installation:
    """Makes safetensors' `safe_open`, `load_file` and `load_model` read through slipstream, whoever calls them.

    It takes effect at once; leaving the `with` block, or `uninstall`, undoes it. Files are opened with PyTorch and
    NumPy as the framework; others go to safetensors itself, as do writing and bytes in memory.

    Args:
        options, storage_options: as in `safe_open`, for all that is opened meanwhile.

    Raises:
        MissingDependencyError: safetensors is not installed.
    """
    installation = Installation(options, storage_options)
    _replacement.add(installation)
    return installation


class _StandInType(type):
    """So that `isinstance(opened, safe_open)` goes on to hold."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, (safe_open, _replacement.original))


class _StandIn(metaclass=_StandInType):
    """What safetensors' `safe_open` is replaced by: opens through the latest installation, or as ever without one."""

    def __new__(cls, filename: str | os.PathLike[str], framework: str, device: Device = "cpu", **keywords: Any) -> Any:
        active = _replacement.latest
        if active is None or not is_delivered(framework):
            return _replacement.original(filename, framework, device, **keywords)
        return safe_open(
            filename,
            framework,
            device,
            options=active.options,
            storage_options=active.storage_options,
            **keywords,
        )


class _Replacement:
    """What is replaced, and by whom that is wanted. Safe to use from many threads.

    Attributes:
        installations: in the order in which they were made.
        original: safetensors' own class.
    """

    def __init__(self) -> None:
        self.installations: tuple[Installation, ...] = ()
        self.original: Any = safe_open  # until there is one
        self._lock = threading.RLock()  # reentrant, since a signal handler may end an installation
        self._replaced: list[tuple[dict[str, Any], str]] = []

    @property
    def latest(self) -> Installation | None:
        """The one whose options count."""
        installations = self.installations
        return installations[-1] if installations else None

    def add(self, installation: Installation) -> None:
        """Replaces what is to be replaced, also what has come to be there since an earlier installation."""
        try:
            import safetensors
        except ImportError as error:
            raise MissingDependencyError("there is no safetensors to read for: pip install safetensors") from error
        with self._lock:
            if not self.installations:
                self.original = safetensors.safe_open
            self.installations = (*self.installations, installation)
            try:
                for names, name in _find_globals(self.original):
                    self._replaced.append((names, name))
                    names[name] = _StandIn
            except BaseException:
                self.remove(installation)
                raise

    def remove(self, installation: Installation) -> None:
        """Undoes everything with the last installation."""
        with self._lock:
            self.installations = tuple(other for other in self.installations if other is not installation)
            if self.installations:
                return
            for names, name in [*self._replaced, *_find_globals(_StandIn)]:
                if names.get(name) is _StandIn:
                    names[name] = self.original
            self._replaced.clear()


_StandIn.__name__ = _StandIn.__qualname__ = "safe_open"  # as tracebacks and signatures are to have it
_replacement = _Replacement()


def _find_globals(value: object) -> list[tuple[dict[str, Any], str]]:
    """Every global of every module that is this object, but for those of this module."""
    found: list[tuple[dict[str, Any], str]] = []
    for name, module in list(sys.modules.items()):
        if name == __name__ or not isinstance(module, ModuleType):
            continue
        names = module.__dict__
        found += [(names, key) for key, held in list(names.items()) if held is value]
    return found
