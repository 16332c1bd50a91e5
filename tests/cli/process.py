"""Runs the command line in a process of its own, as a user does."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping
from pathlib import Path

_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def command(*arguments: str | Path) -> list[str]:
    """The words of `slipstream ARGUMENTS`."""
    return [sys.executable, "-m", "slipstream", *map(str, arguments)]


def environment(**variables: str) -> dict[str, str]:
    """This process's environment with those variables, and without any that steers slipstream or colours."""
    steering = ("SLIPSTREAM_", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_", "TERM")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(steering)}
    return {**kept, "TERM": "xterm-256color", **variables}


def run(*arguments: str | Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs it to its end, with both outputs caught."""
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=environment(**(env or {})),
        stdin=subprocess.DEVNULL,
        check=False,
    )


def run_on_terminal(*arguments: str | Path, columns: int = 80) -> tuple[int, str]:
    """Runs it on a terminal of that width; returns its exit code and all that it sent there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with subprocess.Popen(
        command(*arguments), stdin=theirs, stdout=theirs, stderr=theirs, env=environment(), start_new_session=True
    ) as process:
        os.close(theirs)
        sent = bytearray()
        try:
            while piece := os.read(ours, 65536):
                sent += piece
        except OSError:  # EIO: how a terminal says that nobody has it open any more
            pass
        os.close(ours)
    return process.returncode, sent.decode()


def assert_harmless(text: str) -> None:
    """Holds that the text has no control or direction character but the newline."""
    found = _CONTROL.search(text)
    assert found is None, f"{found[0]!r} in {text[max(0, found.start() - 40) : found.end() + 40]!r}"
