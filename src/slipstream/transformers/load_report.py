"""Puts the model's URI into the report that transformers logs of keys that are missing, left over or of another shape.

It is handed weights without a name, so it would say that they came "from: None".
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_LOGGERS = ("transformers.modeling_utils", "transformers.integrations.peft")


@contextmanager
def name_in_reports(uri: str) -> Iterator[None]:
    """Names a URI in what this thread has transformers report, and in errors, while the `with` block lasts."""
    naming = _Naming(uri)
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(naming)
    try:
        yield
    except (RuntimeError, ValueError) as error:
        error.add_note(f"while loading {uri}")
        raise
    finally:
        for name in _LOGGERS:
            logging.getLogger(name).removeFilter(naming)


class _Naming(logging.Filter):
    def __init__(self, uri: str) -> None:
        super().__init__()
        self._uri = uri
        self._thread = threading.get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.thread == self._thread and isinstance(record.msg, str):
            record.msg = record.msg.replace(" from: None\n", f" from: {self._uri}\n", 1)
        return True
