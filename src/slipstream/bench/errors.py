"""What can go wrong in a benchmark, beside what can go wrong in slipstream."""

from __future__ import annotations

from slipstream.errors import SlipstreamError


class BenchError(SlipstreamError):
    """The root of what the benchmark system raises on purpose."""


class ResultsError(BenchError, ValueError):
    """A file of results that cannot be read. Correct it, or take another one."""


class SampleError(BenchError, RuntimeError):
    """A sample that failed. The message is the reason that stands in its record."""
