"""Conformal prediction: quantiles, factors and p-values that hold for new persons, whatever the distribution.

Scores of n calibration persons and of a new one are exchangeable, so that its rank among them is uniform. One score a
person, not one a slice: slices of a person are alike, and a guarantee over slices would be one for these persons.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

HALVINGS = 40
FACTORS = (1e-3, 1e3)


def conformal_quantile(scores: Sequence[float], level: float) -> float:
    """Compute the bound that a new score stays within with probability `level`: the ceil((n + 1) level)-th smallest.

    Parameters
    ----------
    scores : one a calibration person; a larger one is worse
    level : in (0, 1)

    Returns
    -------
    inf where n is too small for the level: fewer than level / (1 - level) persons

    Examples
    --------
    >>> from mrihvae.inference.conformal import conformal_quantile
    >>> conformal_quantile([3, 1, 4, 1, 5, 9, 2, 6, 5], 0.9), conformal_quantile([1, 2], 0.9)
    (9.0, inf)

    References
    ----------
    * Vovk et al. 2005, "Algorithmic Learning in a Random World"
    * Lei et al. 2018, https://doi.org/10.1080/01621459.2017.1307116
    """
    rank = math.ceil((len(scores) + 1) * level - 1e-9)
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else math.inf


def risk_controlling_factor(risks: Callable[[float], np.ndarray], level: float) -> float:
    """Find the least factor on intervals at which the expected share of pixels outside, of a new person, is controlled.

    That is the least lambda with (sum_i R_i(lambda) + 1) / (n + 1) <= 1 - level (conformal risk control, eq. 4).

    Parameters
    ----------
    risks : from a factor to the share of pixels outside of the interval, one a calibration person; it must not grow
        with the factor
    level : share of pixels that intervals shall hold

    Returns
    -------
    inf where there are too few persons, or no factor up to 1000 is enough

    Examples
    --------
    >>> import numpy as np
    >>> from mrihvae.inference.conformal import risk_controlling_factor
    >>> errors = np.tile(np.linspace(0.01, 1, 100), (50, 1))
    >>> round(risk_controlling_factor(lambda factor: (errors > factor).mean(axis=1), 0.9), 2)
    0.92

    References
    ----------
    * Angelopoulos et al. 2024, "Conformal Risk Control", https://doi.org/10.48550/arXiv.2208.02814
    """

    def holds(factor: float) -> bool:
        found = risks(factor)
        return (float(np.sum(found)) + 1) / (len(found) + 1) <= 1 - level + 1e-12

    low, high = (math.log(end) for end in FACTORS)
    if not holds(FACTORS[1]):
        return math.inf
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if holds(math.exp(middle)) else (middle, high)
    return math.exp(high)


def p_value(score: float, scores: Sequence[float]) -> float:
    """Compute how likely a score as large as this one is, of a person exchangeable with those of `scores`.

    It is at most alpha with probability at most alpha.

    Examples
    --------
    >>> from mrihvae.inference.conformal import p_value
    >>> p_value(10, range(19)), p_value(100, range(19))
    (0.5, 0.05)
    """
    return (1 + int(np.count_nonzero(np.asarray(scores) >= score))) / (len(scores) + 1)
