"""A server of the tests in a process of its own, which obeys commands on a pipe and ends when the pipe does.

    test  ->  Commanded.ask("reset")  --["reset", {}] on its standard input-->  obey({"reset": ...})
                        ^---------------{"answer": ...} on its standard output--------'

So the server's threads do not compete with the client under test for one interpreter lock, and the server ends with
the test, however the test ends.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

_STOP_TIMEOUT_S = 10.0
_STOP = "stop"


class Commanded:
    """The parent's side. Threads may share it: one command at a time, so a command that waits makes others wait.

    Attributes:
        greeting: what the process said when it was ready.
        pid: the process's id.
    """

    def __init__(self, module: str, settings: Mapping[str, object]) -> None:
        """Starts `python -m module settings-as-JSON` and waits until it is ready.

        Raises:
            OSError: it ended instead; its reason is on the standard error.
        """
        self._module = module
        self._one_at_a_time = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C in the terminal is for the test
        )
        self.pid = self._process.pid
        try:
            self.greeting = self._answer()
        except BaseException:
            self.close()
            raise

    def ask(self, command: str, **arguments: object) -> Any:
        """Has a command carried out; returns its answer.

        Raises:
            ValueError: the command refused its arguments.
            OSError: the process has ended.
        """
        assert self._process.stdin is not None
        with self._one_at_a_time:
            self._process.stdin.write(json.dumps([command, arguments]) + "\n")
            self._process.stdin.flush()
            return self._answer()

    def close(self) -> None:
        """Ends the process. Further calls do nothing."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self._process.stdin.closed:
            return
        try:
            # Said aloud: a forked child of this process may hold the pipe open.
            self._process.stdin.write(json.dumps([_STOP, {}]) + "\n")
            self._process.stdin.close()
        except BrokenPipeError:
            pass  # it has ended already
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait(_STOP_TIMEOUT_S)
            raise OSError(f"the process of {self._module} ended with exit code {code}")
        said = json.loads(line)
        if "error" in said:
            raise ValueError(said["error"])
        return said["answer"]


def settings() -> Any:
    """The child's side: what the parent gave to `Commanded`."""
    return json.loads(sys.argv[1])


def obey(commands: Mapping[str, Callable[..., object]], greeting: object) -> NoReturn:
    """The child's side: greets, carries out commands until told to stop or the pipe ends, and ends the process."""
    _say({"answer": greeting})
    for line in sys.stdin:
        name, arguments = json.loads(line)
        if name == _STOP:
            break
        try:
            _say({"answer": commands[name](**arguments)})
        except Exception as error:
            _say({"error": f"{type(error).__name__}: {error}"})
    os._exit(0)  # threads that wait on a socket wait for nothing now: the kernel closes it


def _say(answer: object) -> None:
    print(json.dumps(answer), flush=True)
