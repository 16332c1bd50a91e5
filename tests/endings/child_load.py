"""A process of its own that loads a checkpoint in one of several ways, and is interrupted or ends in the midst of it.

    python -m tests.endings.child_load WAY CHECKPOINT STRATEGY

It says "loading" once the stream is open. What it finds left after an interruption it says too, as JSON.
"""

from __future__ import annotations

import atexit
import gc
import json
import logging
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import slipstream
import slipstream.delivery.numpy  # now, so that no time is spent on it later
from slipstream.reading import engine
from slipstream.types import Strategy
from tests.endings.leaks import see_footprint, wait_nothing_left

kept: list[object] = []  # what the interpreter finds alive when it ends


def say(word: object) -> None:
    print(json.dumps(word), flush=True)


class Child:
    """The ways to load, one method each."""

    def __init__(self, path: Path, strategy: Strategy) -> None:
        self.path = path
        self.options = slipstream.Options(strategy=strategy, concurrency=4, chunk_bytes=512 << 10)
        self.tight_options = slipstream.Options(
            strategy=strategy, concurrency=4, chunk_bytes=128 << 10, memory_limit=5 << 18
        )

    def open(self, options: slipstream.Options | None = None) -> slipstream.TensorStream:
        tensors = slipstream.stream(self.path, framework="numpy", options=options or self.options)
        say("loading")
        return tensors

    # Interrupted while they wait for tensors. They drop none meanwhile: Python swallows what a signal's handler raises
    # as it enters a finalizer.

    def read_in_with(self) -> None:
        with slipstream.stream(self.path, framework="numpy", options=self.options) as tensors:
            say("loading")  # in the block: whatever is interrupted from now on, the stream is closed
            list(tensors)

    def read_bare(self) -> None:
        list(self.open())

    def read_with_progress(self) -> None:
        with slipstream.stream(
            self.path, framework="numpy", options=self.options, progress=lambda progress: None
        ) as tensors:
            say("loading")
            list(tensors)

    def read_by_load(self) -> None:
        say("loading")
        slipstream.load(self.path, framework="numpy", options=self.options)

    def read_until_exit_by_sigterm(self) -> None:
        """As servers do: SIGTERM becomes SystemExit, so that blocks are left in order."""

        def leave(number: int, frame: FrameType | None) -> None:
            sys.exit(7)

        signal.signal(signal.SIGTERM, leave)
        self.read_in_with()

    def read_stuck(self) -> None:
        """With a shorter patience for reads that never return, for the test's sake."""
        logging.basicConfig()
        engine._CLOSE_WAIT_S = 1.0
        try:
            self.read_in_with()
        finally:
            say("left")

    # End with a stream open.

    def exit_with_a_global(self) -> None:
        kept.append(self.open())
        next(kept[0])  # type: ignore[call-overload]

    def exit_unread(self) -> None:
        kept.append(self.open())

    def exit_while_memory_is_short(self) -> None:
        tensors = self.open(self.tight_options)
        kept.extend([tensors, next(tensors)])

    def exit_with_a_cycle(self) -> None:
        gc.disable()
        cycle: list[object] = [self.open()]
        cycle.append(cycle)

    def exit_inside_with(self) -> None:
        with self.open() as tensors:
            next(tensors)
            sys.exit(0)

    def exit_with_tensors(self) -> None:
        with self.open() as tensors:
            kept.extend(tensors)

    def exit_while_a_thread_iterates(self) -> None:
        tensors = self.open(self.tight_options)
        first = threading.Event()

        def iterate() -> None:
            for pair in tensors:
                kept.append(pair)
                first.set()

        threading.Thread(target=iterate, daemon=True).start()
        first.wait()

    def exit_while_reads_are_held(self) -> None:
        kept.append(self.open())
        sys.stdin.readline()  # the test sees reads at its gate
        atexit.register(say, "exiting")


def main() -> None:
    way, path, strategy = sys.argv[1:]
    child = Child(Path(path), Strategy(strategy))
    load: Callable[[], None] = getattr(child, way)
    before = see_footprint(Path(path).parent)
    try:
        load()
    except (KeyboardInterrupt, SystemExit) as error:
        if way != "read_stuck":
            error.__traceback__ = None  # its frames hold a stream that no `with` block has closed
            wait_nothing_left(before, Path(path).parent)
            say("nothing left")
        raise


if __name__ == "__main__":
    main()
