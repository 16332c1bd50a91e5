"""Whether two sets of samples differ, or only scatter.

Times scatter with a long tail, and there are few of them. So two things are asked before a difference is called one:

- Ranks. All ratios of a sample after to a sample before are put in order, and the k-th from each end bounds the true
  ratio, where k is the largest for which the exact distribution of the Mann-Whitney statistic still gives 90 % (Hodges
  and Lehmann 1963; Conover, "Practical Nonparametric Statistics", 5.4). Nothing is assumed of the distribution. Three
  samples on each side are the fewest that bound it: then the interval goes from the lowest ratio to the highest.
- Scatter. By ranks alone one in twenty comparisons of three with three samples would be "slower" by chance. So the
  ratio of the medians must also be three times its standard error. The deviation in it is that of the samples
  compared, or the typical one of all samples taken beside them, whichever is greater: three may lie close together by
  luck.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import comb, exp, log, sqrt
from statistics import NormalDist, median, variance
from typing import Literal, TypeAlias

CONFIDENCE = 0.9
LEAST_EFFECT = 0.05

Verdict: TypeAlias = Literal["slower", "faster", "same", "cannot tell"]
_ERRORS = 3.0
_MEDIAN_ERROR = 1.2  # a median's standard error by a mean's: 1.16 for three samples, 1.25 for many
_EXACT_SAMPLES = 20  # on a side; the normal distribution is good enough beyond
_SLACK = 1e-9  # three and three samples give exactly 0.9
_SHORTEST_S = 1e-9


@dataclass(frozen=True, slots=True)
class Shift:
    """By which factor samples differ.

    Attributes:
        ratio: the median after by the median before.
        low, high: bounds of the true ratio; None where there are too few samples to bound it.
        noise: what chance may make of the ratio, as a fraction: 0.1 is up to 1.1, or down to 1 / 1.1.
    """

    ratio: float
    low: float | None
    high: float | None
    noise: float

    def judge(self, least_effect: float = LEAST_EFFECT) -> Verdict:
        """What can be said, of differences of at least so much.

        "slower" and "faster": all of the interval is on one side of 1, and the medians differ by more than
        `least_effect` and `noise`. "same": all of the interval is within `least_effect` of 1. Else one cannot tell.
        """
        if self.low is None or self.high is None:
            return "cannot tell"
        least = 1 + max(least_effect, self.noise)
        if self.low > 1 and self.ratio >= least:
            return "slower"
        if self.high < 1 and self.ratio <= 1 / least:
            return "faster"
        if self.low >= 1 / (1 + least_effect) and self.high <= 1 + least_effect:
            return "same"
        return "cannot tell"

    def beside(self, drift: float) -> Shift:
        """The same, had everything else not changed by a factor of `drift`."""
        low, high = (None if bound is None else bound / drift for bound in (self.low, self.high))
        return replace(self, ratio=self.ratio / drift, low=low, high=high)


def measure_shift(before: Sequence[float], after: Sequence[float], *, scatter: float = 0.0) -> Shift:
    """Compares samples, of which there must be at least one on each side.

    Args:
        before, after: the samples.
        scatter: what `typical_scatter` says of the samples that were taken beside them.
    """
    first = [max(value, _SHORTEST_S) for value in before]
    second = [max(value, _SHORTEST_S) for value in after]
    ratio = median(second) / median(first)
    error = max(scatter, _common_deviation(first, second)) * sqrt(1 / len(first) + 1 / len(second)) * _MEDIAN_ERROR
    noise = exp(_ERRORS * error) - 1
    rank = _rank(len(first), len(second), CONFIDENCE)
    if rank == 0:
        return Shift(ratio, None, None, noise)
    ratios = sorted(b / a for a in first for b in second)
    return Shift(ratio, ratios[rank - 1], ratios[-rank], noise)


def typical_scatter(samples: Iterable[Sequence[float]]) -> float:
    """The relative standard deviation of a typical set of samples; 0 where there is none of more than one sample.

    It is the median one, so that single wild sets do not count.
    """
    found = [
        variance([log(max(value, _SHORTEST_S)) for value in values]) / _median_of_variance(len(values) - 1)
        for values in samples
        if len(values) > 1
    ]
    return sqrt(median(found)) if found else 0.0


def _common_deviation(first: Sequence[float], second: Sequence[float]) -> float:
    """The relative standard deviation within two sets, together."""
    degrees = len(first) + len(second) - 2
    squares = sum((len(values) - 1) * variance([log(value) for value in values])
                  for values in (first, second) if len(values) > 1)  # fmt: skip
    return sqrt(squares / degrees) if degrees else 0.0


def _median_of_variance(degrees: int) -> float:
    """The median of an estimated variance by the true one (Wilson and Hilferty 1931)."""
    return float((1 - 2 / (9 * degrees)) ** 3)


def _rank(before: int, after: int, confidence: float) -> int:
    """The largest k for which the k-th ratios from both ends bound the true one with this confidence, or 0."""
    if max(before, after) > _EXACT_SAMPLES:
        pairs = before * after
        deviation = sqrt(pairs * (before + after + 1) / 12)
        return max(0, int(pairs / 2 + NormalDist().inv_cdf((1 - confidence) / 2) * deviation))
    ways = comb(before + after, before)
    tail, rank = 0, 0
    while 2 * (tail + _ways(before, after, rank)) <= (1 - confidence + _SLACK) * ways:
        tail += _ways(before, after, rank)
        rank += 1
    return rank


@cache
def _ways(before: int, after: int, statistic: int) -> int:
    """In how many orders of all samples exactly so many pairs are the wrong way round."""
    if statistic < 0 or statistic > before * after:
        return 0
    if before == 0 or after == 0:
        return int(statistic == 0)
    return _ways(before - 1, after, statistic - after) + _ways(before, after - 1, statistic)
