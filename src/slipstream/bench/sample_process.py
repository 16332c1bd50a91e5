"""The process of a sample, as its parent sees it: questions, answers, deadlines, and an end that leaves nothing.

It has a session of its own, so Ctrl-C is for the benchmark alone, and what it starts is ended with it. Should the
benchmark be killed, the kernel ends it (PR_SET_PDEATHSIG, set by `child.sample`).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from slipstream.bench.errors import SampleError
from slipstream.bench.redaction import redact, shorten

_EXIT_TIMEOUT_S = 10.0
_POLL_S = 0.01
_IDLE_S = 0.5
_READ_BYTES = 1 << 16
_STDERR_TAIL_BYTES = 4000


class SampleProcess:
    """A process that answers each line with a line of JSON, from construction until `close`.

    Attributes:
        pid: its id.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], *, name: str, secrets: Iterable[str] = ()
    ) -> None:
        """Starts it.

        Args:
            command: what it runs.
            environment: all of it.
            name: whose process it is, for errors.
            secrets: what must not stand in an error.

        Raises:
            SampleError: it cannot be started.
        """
        self._name = name
        self._secrets = tuple(secrets)
        self._said = bytearray()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=dict(environment),
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            self._stderr.close()
            raise SampleError(f"the process of {name} cannot be started: {error}") from error
        self.pid = self._process.pid
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        os.set_blocking(self._input.fileno(), False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<SampleProcess of {self._name}, {self.pid}>"

    def ask(
        self,
        question: str | Mapping[str, object],
        answer: str,
        *,
        timeout_s: float,
        idle: Callable[[], object] | None = None,
    ) -> Mapping[str, Any]:
        """Says something, and waits for the answer of that kind; `idle` is called now and then meanwhile.

        Raises:
            SampleError: it failed, ended, or did not answer in time.
        """
        deadline = time.monotonic() + timeout_s
        line = question if isinstance(question, str) else json.dumps(question)
        try:
            self._write(line.encode() + b"\n", deadline)
            said = self._read_line(deadline, idle)
        except TimeoutError:
            raise SampleError(
                f"{self._name} was not {answer} after {timeout_s:g} s, and was ended; {self._last_words()}"
            ) from None
        except (EOFError, BrokenPipeError):
            raise SampleError(f"the process of {self._name} {self._describe_end()}; {self._last_words()}") from None
        found = json.loads(said)
        if found.get("said") == answer:
            assert isinstance(found, dict)
            return found
        raise SampleError(self._clean(f"{self._name} failed: {found.get('reason', said.decode(errors='replace'))}"))

    def close(self) -> None:
        """Ends it and all that it started. Further calls do nothing."""
        if self._process.returncode is not None:
            return
        # Not yet waited for, so neither its id nor its group's can be anybody else's.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        for stream in (self._input, self._output, self._stderr):
            stream.close()

    def _write(self, data: bytes, deadline: float) -> None:
        rest = memoryview(data)
        while rest:
            self._wait(self._input.fileno(), select.POLLOUT, deadline, None)
            with contextlib.suppress(BlockingIOError):
                rest = rest[os.write(self._input.fileno(), rest) :]

    def _read_line(self, deadline: float, idle: Callable[[], object] | None) -> bytes:
        while (end := self._said.find(b"\n")) < 0:
            self._wait(self._output.fileno(), select.POLLIN, deadline, idle)
            more = os.read(self._output.fileno(), _READ_BYTES)
            if not more:
                raise EOFError
            self._said += more
        line = bytes(self._said[:end])
        del self._said[: end + 1]
        return line

    @staticmethod
    def _wait(descriptor: int, event: int, deadline: float, idle: Callable[[], object] | None) -> None:
        """Waits until a pipe can be read or written, or its other end was closed."""
        poll = select.poll()
        poll.register(descriptor, event)
        while not poll.poll(1000 * min(_IDLE_S, max(0.0, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                raise TimeoutError
            if idle is not None:
                idle()

    def _describe_end(self) -> str:
        """How it ended. It is left unwaited for: see `close`."""
        deadline = time.monotonic() + _EXIT_TIMEOUT_S
        while time.monotonic() < deadline:
            found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is None:
                time.sleep(_POLL_S)
            elif found.si_code == os.CLD_EXITED:
                return f"ended with exit code {found.si_status}"
            else:
                hint = ", perhaps for want of memory" if found.si_status == signal.SIGKILL else ""
                return f"was ended by {signal.Signals(found.si_status).name}{hint}"
        return "closed its output"

    def _last_words(self) -> str:
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - _STDERR_TAIL_BYTES))
        words = self._clean(self._stderr.read().decode(errors="replace"))
        return f"it wrote: {words}" if words else "it wrote nothing"

    def _clean(self, text: str) -> str:
        return shorten(redact(text, self._secrets))
