"""A process that asks object stores for a forked child, whose own obstore is dead (see store_requests).

It is a fresh interpreter that reads requests from its standard input and answers on its standard output, both pickled,
one at a time, until its input ends. What was raised comes back as an answer too. It takes a tenth of a second to start.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import subprocess
import sys
from threading import Lock
from typing import IO, Any, cast

from slipstream.errors import ReadError
from slipstream.sources.credentials import Container, cloud_variables, replace_cloud_variables

_PROGRAM = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from slipstream.sources.store_process import serve; serve()"
)


class StoreProcess:
    """The process, started with the first request. Safe to use from many threads, which take turns."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, *request: object) -> Any:
        """Has `store_requests.answer` answer a request.

        Raises:
            ReadError: the process could not be started, or died.
            SlipstreamError: what the answer was.
        """
        with self._lock:
            answer = self._exchange((cloud_variables(), request))
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _exchange(self, message: object) -> Any:
        try:
            process = self._process or self._start()
            _send(cast(IO[bytes], process.stdin), message)
            return pickle.load(cast(IO[bytes], process.stdout))
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            self.close()
            fault = type(error).__name__
        raise ReadError(f"the process that asks object stores for this forked process ended ({fault}): load again")

    def _start(self) -> subprocess.Popen[bytes]:
        # In a session of its own, where no Ctrl-C in the terminal reaches it: it ends when its input does.
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._process = process
        atexit.register(self.close)
        _send(cast(IO[bytes], process.stdin), sys.path)
        return process

    def close(self) -> None:
        """Ends the process, which has nothing to finish."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    cast(IO[bytes], pipe).close()


def _send(pipe: IO[bytes], value: object) -> None:
    pipe.write(pickle.dumps(value))
    pipe.flush()


def serve() -> None:
    """The process's side: answers requests until there are no more."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # so that nothing that prints can come between the answers
    while True:
        try:
            variables, request = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        replace_cloud_variables(variables)
        _send(answers, _answer(*request))


def _answer(request: str, container: Container, key: str, *arguments: object) -> object:
    from slipstream.sources import store_requests

    try:
        return store_requests.answer(request, container, key, *arguments)
    except Exception as error:
        return error
