"""A process of its own that pulls, and is interrupted or killed in the midst of it, or waits for another.

    python -m tests.pulling.child_pull URI DIRECTORY

It says "pulling" before, "waiting" where another process pulls into the directory, and in the end what it has
fetched, as JSON.
"""

from __future__ import annotations

import json
import logging
import sys

import slipstream
from slipstream import Progress
from tests.pulling.models import SMALL_CHUNKS


def say(word: object) -> None:
    print(json.dumps(word), flush=True)


class Notices(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if "waiting for another process" in record.getMessage():
            say("waiting")


def main() -> None:
    uri, directory = sys.argv[1:]
    logger = logging.getLogger("slipstream")
    logger.setLevel(logging.INFO)
    logger.addHandler(Notices())
    last = Progress(0, 0, 0, 0, 0.0)

    def note(progress: Progress) -> None:
        nonlocal last
        last = progress

    say("pulling")
    paths = slipstream.pull(uri, directory, options=SMALL_CHUNKS, progress=note)
    say({"files": len(paths), "fetched_files": last.tensors_total, "fetched_bytes": last.bytes_total})


if __name__ == "__main__":
    main()
