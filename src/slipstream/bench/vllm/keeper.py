"""Starts a server, waits until it answers, asks it, and ends it with all that it started. A program of its own.

One JSON object a line. The parent's are the job (see `Job`), then "go", then "end"; this program's answers are

    {"said": "ready"}
    {"said": "measured", "reason": "", "health_s": ..., "first_token_s": ..., "answer": ...}
    {"said": "measured", "reason": "what went wrong", "message": "what the server said of it"}
    {"said": "ended", "code": ..., "left": []}

It ends the server by itself when its standard input ends, at any line that comes early, when it is told to stop
(SIGTERM), and when its parent dies, for which it asks the kernel (prctl(2): PR_SET_PDEATHSIG); then it removes the
start's folder, too. What the server's processes leave behind becomes this one's child (PR_SET_CHILD_SUBREAPER), so that
none of them escapes.

Standard library only and one file, nothing of slipstream: it starts in 20 ms, in any interpreter (-I -S).
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypedDict

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_POLL_S = 0.02
_REQUEST_TIMEOUT_S = 5.0  # of one look at /health
_SHORT_GRACE_S = 5.0  # of a start that failed or is not wanted any more: vLLM is deaf while its engine comes up
_ENDING_S = 2.0
_KILL_S = 10.0
_TRACKER_S = 5.0
_TRACKER = b"multiprocessing.resource_tracker"
_PORT = "{port}"
_LONGEST = 500
_libc = ctypes.CDLL(None, use_errno=True)


class Job(TypedDict):
    """What the parent says first.

    Attributes:
        command: what is started; "{port}" in it is replaced by a free port.
        environment: all of it.
        root: the folder of all this, which is removed should the parent die.
        folder: where it runs.
        log: the file for its output.
        model: what requests call the model.
        prompt: what it is asked.
        tokens: how many tokens the answer has.
        health_timeout_s: from the start until /health answers.
        token_timeout_s: of a request.
        grace_s: how long it may take to end when it is asked to, before it is killed.
        parent: the process that must be alive.
    """

    command: list[str]
    environment: dict[str, str]
    root: str
    folder: str
    log: str
    model: str
    prompt: str
    tokens: int
    health_timeout_s: float
    token_timeout_s: float
    grace_s: float
    parent: int


class _Failed(Exception):
    """The server did not do what it should: what went wrong, and what it said itself."""

    def __init__(self, reason: str, message: str = "") -> None:
        super().__init__(reason)
        self.message = message[:_LONGEST]


class _Told(Exception):
    """The parent has something to say, or has gone."""


class _Server:
    """The server, from its start until `end`."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0

    def start(self) -> None:
        """Starts it, and the clock.

        Raises:
            _Failed: it cannot be started.
        """
        keeper = os.getpid()

        def end_with_keeper() -> None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            if os.getppid() != keeper:
                os._exit(1)

        command = [argument.replace(_PORT, str(self._port)) for argument in self._job["command"]]
        with open(self._job["log"], "wb") as log:
            self._started = time.monotonic()
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self._job["folder"],
                    env=self._job["environment"],
                    preexec_fn=end_with_keeper,  # this process has one thread
                )
            except OSError as error:
                raise _Failed(f"{command[0]} cannot be started: {error.strerror}") from error

    def measure(self) -> dict[str, Any]:
        """Waits until it answers, and asks it.

        Raises:
            _Failed: it ended, took too long, or answered something else.
            _Told: the parent said something meanwhile.
        """
        figures: dict[str, Any] = {"health_s": self._wait_healthy()}
        figures["first_token_s"] = self._first_token()
        figures["answer"] = self._answer()
        return figures

    def end(self, grace_s: float) -> dict[str, Any]:
        """Asks it to end, and after that grace ends all of its processes that are left."""
        code = None
        if self._process is not None:
            if self._code() is None:
                os.kill(self._process.pid, signal.SIGTERM)
                _wait_until(lambda: self._code() is not None, grace_s)
            code = self._code()
            self._process.returncode = -signal.SIGKILL if code is None else code  # waited for right below
        _end_descendants()
        left = [_command_of(pid) for pid in _descendants()]
        if _listens(self._port):
            left.append(f"a listener on port {self._port}")
        return {"code": code, "left": left}

    def _wait_healthy(self) -> float:
        deadline = self._started + self._job["health_timeout_s"]
        said = ""
        while time.monotonic() < deadline:
            self._require_running("before /health answered")
            try:
                status = self._get_status("/health")
                if status == http.client.OK:
                    return time.monotonic() - self._started
                said = f"its last answer was {status}"
            except (OSError, http.client.HTTPException) as error:
                said = f"its last answer was {type(error).__name__}"
            _pause()
        raise _Failed(f"/health did not answer within {self._job['health_timeout_s']:g} s; {said}")

    def _first_token(self) -> float:
        for event in self._events({"max_tokens": 1, "stream": True}):
            if event.get("choices"):
                return time.monotonic() - self._started
            raise _Failed("/health answered, but no token came", _message(event))
        raise _Failed("/health answered, but a request for a token was answered without one")

    def _answer(self) -> str:
        for event in self._events({"max_tokens": self._job["tokens"], "stream": False}):
            if event.get("choices"):
                return str(event["choices"][0].get("text"))
            raise _Failed("one token came, but no answer", _message(event))
        raise AssertionError("a plain answer is one event")

    def _events(self, settings: dict[str, object]) -> Iterator[dict[str, Any]]:
        """The events of a streamed answer, or the one that a plain answer is."""
        asked = {"model": self._job["model"], "prompt": self._job["prompt"], "temperature": 0, **settings}
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=self._job["token_timeout_s"])
        try:
            connection.request("POST", "/v1/completions", json.dumps(asked), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            if answer.status != http.client.OK:
                said = answer.read(_LONGEST).decode(errors="replace")
                raise _Failed(f"/health answered, but a request for a token got {answer.status}", said)
            if not settings["stream"]:
                yield json.loads(answer.read())
                return
            for line in answer:
                event = line.strip().removeprefix(b"data: ")
                if event == b"[DONE]":
                    return
                if event:
                    yield json.loads(event)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if not isinstance(error, TimeoutError):
                _wait_until(lambda: self._code() is not None, _ENDING_S)  # its connections close before it has ended
            self._require_running("while it answered the first request")
            said = f"{type(error).__name__}: {error}"
            raise _Failed("/health answered, but a request for a token failed", said) from error
        finally:
            connection.close()

    def _get_status(self, path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_REQUEST_TIMEOUT_S)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()

    def _require_running(self, when: str) -> None:
        code = self._code()
        if code is not None:
            how = f"ended with exit code {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"
            raise _Failed(f"it {how} {when}")

    def _code(self) -> int | None:
        """How it ended, negative for a signal; None while it runs. It is left to be waited for, so its id stays its."""
        assert self._process is not None
        found = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status


def main() -> None:
    """Keeps one server."""
    signal.signal(signal.SIGTERM, _stop)
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    line = _read_line()
    if not line:
        return
    job: Job = json.loads(line)
    ended = None
    try:
        if os.getppid() == job["parent"]:
            _say("ready")
            if _read_line() == "go":
                ended = _keep(job)
    finally:
        if _parent_has_gone(job["parent"]):  # else it removes the folder itself, when it has read the log
            shutil.rmtree(job["root"], ignore_errors=True)
    if ended is not None:
        _say("ended", **ended)


def _keep(job: Job) -> dict[str, Any]:
    """Starts the server, measures, and ends it when the parent says so; returns how it ended."""
    server = _Server(job)
    grace_s = min(_SHORT_GRACE_S, job["grace_s"])
    try:
        server.start()
        _say("measured", reason="", **server.measure())
        if _read_line():
            grace_s = job["grace_s"]
    except _Failed as failure:
        _say("measured", reason=str(failure), message=failure.message)
        _read_line()
    except _Told:
        pass
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        ended = server.end(grace_s)
    return ended


def _parent_has_gone(parent: int) -> bool:
    """Whether it is dead, or at least has closed its pipe, which the kernel does first."""
    return os.getppid() != parent or bool(select.select([0], [], [], 0)[0] and not os.read(0, 1))


def _message(event: dict[str, Any]) -> str:
    """What a server says of its own failure."""
    error = event.get("error")
    if isinstance(error, dict) and error.get("message"):
        return str(error["message"])
    return json.dumps(event)


def _stop(number: int, frame: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(128 + number)


def _say(said: str, **facts: object) -> None:
    try:
        print(json.dumps({"said": said, **facts}), flush=True)
    except BrokenPipeError:  # the parent has gone: nobody asks any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _read_line() -> str:
    """The next line, byte by byte, so that what was not read is seen by `_pause`; "" at the end."""
    line = bytearray()
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    return line.decode()


def _pause() -> None:
    """Waits a moment.

    Raises:
        _Told: the parent has said something, or has gone.
    """
    if select.select([0], [], [], _POLL_S)[0]:
        raise _Told


def _end_descendants() -> None:
    """Kills whatever was started and still runs, and waits for all of it.

    A resource tracker of Python's ends by itself when those that it tracks for have, and removes their shared memory:
    it gets a moment for that.
    """
    start = time.monotonic()
    while time.monotonic() < start + _KILL_S:
        _reap()
        found = _descendants()
        if not found:
            return
        for pid in found:
            if _TRACKER not in _command_of(pid).encode() or time.monotonic() > start + _TRACKER_S:
                _kill(pid)
        time.sleep(_POLL_S)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            continue
    except ChildProcessError:
        pass


def _descendants() -> list[int]:
    """The processes that this one or its descendants started, without those that have ended."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue
            if fields[0] not in (b"Z", b"X"):
                children.setdefault(int(fields[1]), []).append(int(name))
    found, waiting = [], [os.getpid()]
    while waiting:
        new = children.get(waiting.pop(), [])
        found += new
        waiting += new
    return found


def _command_of(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode(errors="replace").strip() or f"process {pid}"
    except OSError:
        return f"process {pid}"


def _wait_until(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    main()
