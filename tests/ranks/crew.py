"""Starts the ranks of a test, each a process of its own (member.py), and tells them what to do."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch.distributed import TCPStore  # type: ignore[attr-defined]

ROOT = Path(__file__).resolve().parents[2]
HANG_S = 25.0  # no command takes nearly as long


@dataclass(frozen=True, slots=True)
class Failed:
    """How a command ended badly.

    Attributes:
        error: the class of the error.
        text: its message.
        rank: the rank that it names.
    """

    error: str
    text: str
    rank: int | None = None


class Crew:
    """The ranks of one process group, from construction until `close`. One thread talks to it at a time."""

    def __init__(self, size: int, **environment: str) -> None:
        self.size = size
        self.store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        steering = ("SLIPSTREAM_", "GLOO_", "RANK", "WORLD_SIZE", "MASTER_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(steering)}
        self._members = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.ranks.member", str(rank), str(size), str(self.store.port)],
                cwd=ROOT,
                env={**kept, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                bufsize=1,
                start_new_session=True,
            )
            for rank in range(size)
        ]
        try:
            self.pids = [self.hear(rank) for rank in range(size)]
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends every process that has not ended."""
        for member in self._members:
            member.kill()
            member.communicate()

    def tell(self, rank: int, command: str, **arguments: object) -> None:
        """Gives one rank a command, and does not wait."""
        pipe = self._members[rank].stdin
        assert pipe is not None
        pipe.write(json.dumps([command, arguments]) + "\n")
        pipe.flush()

    def hear(self, rank: int) -> Any:
        """Waits for the rank's answer: what the command gave, or a Failed."""
        pipe = self._members[rank].stdout
        assert pipe is not None
        if not select.select([pipe], [], [], HANG_S)[0]:
            raise TimeoutError(f"rank {rank} hangs:\n{self._end_with_stacks()}")
        line = pipe.readline()
        if not line:
            error = self._members[rank].stderr
            assert error is not None
            raise RuntimeError(f"rank {rank} ended: {error.read()}")
        answer = json.loads(line)
        if "error" in answer:
            return Failed(answer["error"], answer["text"], answer.get("rank"))
        return answer["value"]

    def is_silent(self, rank: int, seconds: float) -> bool:
        """Whether a rank gives no answer for so long."""
        pipe = self._members[rank].stdout
        assert pipe is not None
        return not select.select([pipe], [], [], seconds)[0]

    def _end_with_stacks(self) -> str:
        """Where every thread of every rank stands. Ends the ranks, since no further test could use them."""
        for member in self._members:
            member.send_signal(signal.SIGUSR1)
        time.sleep(1.0)
        for member in self._members:
            member.kill()
        return "\n".join(f"rank {rank}:\n{member.communicate()[1]}" for rank, member in enumerate(self._members))

    def ask(self, rank: int, command: str, **arguments: object) -> Any:
        """Both."""
        self.tell(rank, command, **arguments)
        return self.hear(rank)

    def ask_all(self, command: str, **arguments: object) -> list[Any]:
        """Gives all ranks the same command, and waits for all answers."""
        for rank in range(self.size):
            self.tell(rank, command, **arguments)
        return [self.hear(rank) for rank in range(self.size)]

    def kill(self, rank: int) -> None:
        """Ends a rank as the kernel does when memory is short."""
        self._members[rank].kill()
        self._members[rank].wait()

    def stop(self, rank: int) -> None:
        """Lets a rank stand still, as in a debugger."""
        self._members[rank].send_signal(signal.SIGSTOP)

    def go_on(self, rank: int) -> None:
        """Ends `stop`."""
        self._members[rank].send_signal(signal.SIGCONT)

    def finish(self, rank: int) -> tuple[int, str]:
        """Lets a rank end by itself: its exit code, and its standard error."""
        began = time.monotonic()
        _, error = self._members[rank].communicate(timeout=HANG_S)
        assert time.monotonic() - began < HANG_S
        return self._members[rank].returncode, error
