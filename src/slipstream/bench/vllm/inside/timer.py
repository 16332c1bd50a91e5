"""A plugin of vLLM's (entry point group vllm.general_plugins) that says how long loading the weights took.

vLLM's own log says so for its default loader alone. This puts a clock around `load_weights` and `load_model` of
whichever loader is chosen, and changes nothing else; where vLLM is made otherwise, it says nothing. It costs the API
server, which loads no weights, nothing: the module that it looks at is not imported for it.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

_MODULE = "vllm.model_executor.model_loader"
_METHODS = ("load_weights", "load_model")


def register() -> None:
    """What vLLM calls in each of its processes, perhaps more than once."""
    if _MODULE in sys.modules:
        _put_clocks(sys.modules[_MODULE])
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    """Sees to it that the clocks are there as soon as the module is imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_put_clocks(module: ModuleType) -> None:
                execute(module)
                _put_clocks(module)

            spec.loader.exec_module = execute_and_put_clocks  # type: ignore[method-assign]
        return spec


def _put_clocks(module: ModuleType) -> None:
    choose = getattr(module, "get_model_loader", None)
    if choose is None or hasattr(choose, "__wrapped__"):
        return

    @functools.wraps(choose)
    def choose_with_clocks(*arguments: Any, **named: Any) -> Any:
        loader = choose(*arguments, **named)
        for name in _METHODS:
            if callable(getattr(loader, name, None)):
                setattr(loader, name, _timed(name, getattr(loader, name)))
        return loader

    module.get_model_loader = choose_with_clocks  # type: ignore[attr-defined]


def _timed(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def timed(*arguments: Any, **named: Any) -> Any:
        start = time.perf_counter()
        result = method(*arguments, **named)
        print(f"slipstream-bench: {name} took {time.perf_counter() - start:.6f} s", file=sys.stderr, flush=True)
        return result

    return timed
