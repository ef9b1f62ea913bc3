"""How likely evidence is to be chance. Small samples lie: of the first ten attempts of a type that fails one time in
five, half fail once in thirty starts."""

from __future__ import annotations

import math
from functools import lru_cache


@lru_cache(maxsize=4096)
def tail(attempts: int, failures: int, rate: float) -> float:
    """The probability that of so many attempts at least so many fail, when each fails with `rate`: the upper tail of
    the binomial distribution, summed in logarithms so that a thousand attempts do not overflow."""
    if failures <= 0 or rate >= 1:
        return 1.0
    if rate <= 0:
        return 0.0
    whole = math.lgamma(attempts + 1)
    total = 0.0
    for k in range(failures, attempts + 1):
        ways = whole - math.lgamma(k + 1) - math.lgamma(attempts - k + 1)
        total += math.exp(ways + k * math.log(rate) + (attempts - k) * math.log1p(-rate))
    return min(total, 1.0)


def surprising(streak: int, failures: int, others: int, chance: float) -> bool:
    """Whether `streak` failures in a row are more than bad luck, given that `failures` of `others` further attempts
    failed alike. Where none did there is no noise to blame."""
    if not failures:
        return True
    return usual(failures, others) ** streak <= chance


def usual(failures: int, attempts: int) -> float:
    """The rate at which attempts fail, as so many of them tell: Laplace's rule of succession, never 0 or 1."""
    return (failures + 1) / (attempts + 2)
