"""What the real servers of the tests have in common: a free port, a wait until it answers, an end that leaves nothing.

    Server.__init__ -> start() -> launch on free ports -> wait until answers() -> (stop() -> start())* -> close()

The server's process ends with the process that started it, however that ends (PR_SET_PDEATHSIG, prctl(2)); what it
stored then stays on disk. The kernel sends that signal when the starting *thread* ends, so a thread of this module's
own, which lasts, starts every server.
"""

from __future__ import annotations

import functools
import http.client
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import ClassVar, NamedTuple, Self

_START_TIMEOUT_S = 60.0  # a start takes 0.05 to 2 s; on a machine that swaps it may take many times that
_STOP_TIMEOUT_S = 15.0
_POLL_S = 0.02
PROBE_TIMEOUT_S = 2.0  # of one call of `answers`
_ATTEMPTS = 4  # each on other ports
_LOG_TAIL_CHARACTERS = 4000
_PORT_TAKEN = ("address already in use", "eaddrinuse", "is not available on 127.0.0.1")
# Below what Linux gives to outgoing connections (32768 and up), so a stopped server finds its port free again.
_FIRST_PORT, _LAST_PORT = 10240, 22000
PARTNER_OFFSET = 10_000  # SeaweedFS listens so far above each of its ports as well

# Asks for its end, then becomes the server. What follows -c: the parent's process id, the signal, the command.
_LAUNCHER = """
import ctypes, os, signal, sys
parent, end_signal, *command = sys.argv[1:]
ctypes.CDLL(None).prctl(1, int(end_signal))  # PR_SET_PDEATHSIG
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
if os.getppid() == int(parent):
    os.execv(command[0], command)
"""


class ServerError(Exception):
    """A server did not come up, or refused what a test's own client asked of it. The message carries its log."""


class Launch(NamedTuple):
    """How to run a server: an absolute program with its arguments, and what its environment adds to the bare one."""

    command: Sequence[str | Path]
    environment: Mapping[str, str]


class Server(ABC):
    """A program that serves on loopback, from construction until `close`. One thread starts and stops it at a time.

    Attributes:
        folder: the server's own files, its log among them. Removed by `close`.
        port: where it listens; the same for as long as the object lives.
    """

    name: ClassVar[str]
    ports_needed: ClassVar[int] = 1
    end_signal: ClassVar[signal.Signals] = signal.SIGKILL
    scheme: str = "http"

    def __init__(self, directory: Path | None = None) -> None:
        """Starts the server.

        Args:
            directory: where `folder` is made. By default where temporary files go.

        Raises:
            ServerError: it did not come up. Nothing of it is left.
        """
        self.folder = Path(tempfile.mkdtemp(prefix=f"slipstream-{self.name}-", dir=directory))
        self._process: subprocess.Popen[bytes] | None = None
        self.ports: list[int] = []
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def launch(self, ports: Sequence[int]) -> Launch:
        """The command that serves on `ports`, of which there are `ports_needed`. The first becomes `port`."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether the server at `port` is this one and does its work; an OSError means: not yet.

        Takes `PROBE_TIMEOUT_S` at most.
        """

    @property
    def port(self) -> int:
        return self.ports[0]

    @property
    def endpoint(self) -> str:
        """The server's URL, without a slash at its end."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """The server's process id; None while it is stopped."""
        return self._process.pid if self._process else None

    @property
    def log(self) -> str:
        """All that the server has written to its standard output and error."""
        path = self.folder / "server.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Starts the server, again if it was stopped: then on the same port, with what was stored still there.

        Raises:
            ServerError: it ended, or did not answer within a minute.
        """
        assert self._process is None, f"{self!r} runs already"
        if self.ports:
            self._start_here()
            return
        for attempt in range(_ATTEMPTS):
            self.ports = _find_free_ports(self.ports_needed)
            try:
                self._start_here()
                return
            except ServerError:
                taken = any(words in self.log.lower() for words in _PORT_TAKEN)
                if not taken or attempt == _ATTEMPTS - 1:
                    raise

    def stop(self) -> None:
        """Ends the process; open connections break. What is stored in `folder` stays for the next `start`."""
        if self._process is None:
            return
        process, self._process = self._process, None
        process.send_signal(self.end_signal)
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def close(self) -> None:
        """Stops the server and removes all that it stored. Further calls do nothing."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = f"process {self.pid}" if self._process else "stopped"
        return f"<{type(self).__name__} {self.endpoint if self.ports else 'without a port'}, {state}>"

    def _start_here(self) -> None:
        launch = self.launch(self.ports)
        launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), str(int(self.end_signal))]
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.folder),  # no settings of the user's
            "TMPDIR": str(self.folder),
            **launch.environment,
        }
        with (self.folder / "server.log").open("wb") as log:
            self._process = (
                _spawner()
                .submit(
                    subprocess.Popen,
                    [*launcher, *map(str, launch.command)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self.folder,
                    env=environment,
                    start_new_session=True,  # Ctrl-C in the terminal is for the test
                )
                .result()
            )
        try:
            self._wait_answers(self._process)
        except BaseException:
            self.stop()
            raise

    def _wait_answers(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        refusal: Exception | None = None
        while process.poll() is None and time.monotonic() < deadline:
            try:
                if self.answers():
                    return
            except (OSError, http.client.HTTPException) as error:
                refusal = error
            time.sleep(_POLL_S)
        code = process.poll()
        outcome = f"did not answer in {_START_TIMEOUT_S:.0f} s" if code is None else f"ended with exit code {code}"
        raise ServerError(
            f"{self.name} at {self.endpoint} {outcome}; it wrote:\n{self.log[-_LOG_TAIL_CHARACTERS:] or '(nothing)'}"
        ) from refusal


def find_program(name: str, *folders: Path) -> Path | None:
    """The absolute path of a program: beside this Python, in `folders`, or on the PATH. None where it is not."""
    beside = [Path(sys.executable).parent, *folders]
    found = shutil.which(name, path=os.pathsep.join(map(str, beside))) or shutil.which(name)
    return Path(found).absolute() if found else None


def _find_free_ports(count: int) -> list[int]:
    """So many ports where nothing listens, nor on the port 10000 above, which SeaweedFS may take as well."""
    ports: list[int] = []
    for port in random.SystemRandom().sample(range(_FIRST_PORT, _LAST_PORT), _LAST_PORT - _FIRST_PORT):
        if _is_free(port) and _is_free(port + PARTNER_OFFSET):
            ports.append(port)
            if len(ports) == count:
                return ports
    raise ServerError(f"of the ports {_FIRST_PORT} to {_LAST_PORT}, {len(ports)} are free, not {count}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as servers do: closed connections are no hindrance
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@functools.cache
def _spawner() -> ThreadPoolExecutor:
    """The one thread that starts servers, which lasts as long as this process."""
    return ThreadPoolExecutor(1, thread_name_prefix="real-servers")


os.register_at_fork(after_in_child=_spawner.cache_clear)  # a child has no such thread
