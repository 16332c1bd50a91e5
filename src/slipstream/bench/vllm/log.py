"""What vLLM says of itself in its log: how long the weights took, and why it did not start.

Tried on the log of vLLM 0.32. Where each number comes from is said, since not every load format reports the same:

    slipstream-bench: load_weights took 1.234567 s      inside/timer.py, around the loader's own method; every format
    Loading weights took 1.23 seconds                   the default loader alone
    Model loading took 1.2 GiB memory and 3.4 seconds   on GPUs; with what initialising the model took, which is
    Initializing model took 0.123456 seconds            taken off
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from slipstream.bench.redaction import redact, shorten

NOT_REPORTED = "not reported"
# "(Worker pid=4385) ERROR 11-25 03:37:57 [core.py:1512] ", or the prefix of another process alone
_PREFIX = re.compile(r"^(?:\([^()]*\bpid=\d+\) ?)?(?:[A-Z]+ \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\] ?)?")
_EXCEPTION = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception|Exit)\b(?:: .*)?$|^[\w.]+: error: ")  # or argparse's
# What is raised for want of something else, which stands before it in the log.
_SECOND_HAND = re.compile(r"See (?:root cause|stack trace)|^SystemExit|^EngineDeadError|\.EngineDeadError")
_TIMES: Mapping[str, re.Pattern[str]] = {
    "timed_load_weights_s": re.compile(r"slipstream-bench: load_weights took ([\d.]+) s\b"),
    "timed_load_model_s": re.compile(r"slipstream-bench: load_model took ([\d.]+) s\b"),
    "loading_weights_s": re.compile(r"Loading weights took ([\d.]+) seconds"),
    "initializing_model_s": re.compile(r"Initializing model took ([\d.]+) seconds"),
    "model_loading_s": re.compile(r"Model loading took .*?\band ([\d.]+) seconds"),
    "init_engine_s": re.compile(r"init engine \([^()]*\) took ([\d.]+) s"),
}
_LAST_LINES = 3


@dataclass(frozen=True)
class Weights:
    """How long loading the weights took, of all ranks the longest.

    Attributes:
        seconds: None where nothing said it.
        source: what said it, or "not reported".
        reported: every time that was found in the log, by its name.
    """

    seconds: float | None = None
    source: str = NOT_REPORTED
    reported: Mapping[str, float] = field(default_factory=dict)


def parse_weights(log: str) -> Weights:
    """How long loading the weights took, by the best that the log has for it."""
    found = {name: [float(number) for number in pattern.findall(log)] for name, pattern in _TIMES.items()}
    reported = {name: max(times) for name, times in found.items() if times}
    for name, source in {
        "timed_load_weights_s": "timed around the loader's load_weights",
        "timed_load_model_s": "timed around the loader's load_model",
        "loading_weights_s": "vLLM's log: Loading weights took",
    }.items():
        if name in reported:
            return Weights(reported[name], source, reported)
    if "model_loading_s" in reported:
        seconds = reported["model_loading_s"] - reported.get("initializing_model_s", 0.0)
        return Weights(round(seconds, 6), "vLLM's log: Model loading took, without Initializing model", reported)
    return Weights(reported=reported)


def explain_failure(log: str, secrets: Iterable[str] = (), message: str = "") -> str:
    """Why vLLM failed, in one line without secrets: the first exception that no other one caused.

    Args:
        log: all that it wrote.
        secrets: what must not stand in the line.
        message: what it said to its client, which is told where the log has no exception; else its last words are.
    """
    lines = [line for raw in log.splitlines() if (line := _PREFIX.sub("", raw).strip())]
    exceptions = [line for line in lines if _EXCEPTION.match(line)]
    causes = [line for line in exceptions if not _SECOND_HAND.search(line)] or exceptions
    words = causes[0] if causes else message or " ".join(lines[-_LAST_LINES:])
    return shorten(redact(words, secrets)) or "it wrote nothing"
