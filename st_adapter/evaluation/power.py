"""How many queries it takes to show a gain."""

from __future__ import annotations

import math

from scipy.special import ndtr, ndtri

from st_adapter.evaluation.statistics import Gate

# Away from 0 and 1, where there is no logarithm.
_LEAST = 1e-12


def queries_needed(effect_size: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """How many queries a paired one-sided test takes to find a gain.

    ``((z_alpha + z_power) / d)**2 + z_alpha**2 / 2``: the normal approximation (Cohen 1988, "Statistical power analysis
    for the behavioral sciences", chapter 2) with the correction for Student's distribution of Guenther 1981, "Sample
    size formulas for normal theory t tests".

    Args:
        effect_size: d, the mean of the differences over their standard deviation.
        alpha: level of the test, 0 < alpha < 1.
        power: probability to find it, 0 < power < 1.

    Returns:
        ``inf`` where there is no gain to find, d <= 0.

    Examples:
        >>> round(queries_needed(0.2)), round(queries_needed(0.5))
        (156, 26)
    """
    if effect_size <= 0:
        return math.inf
    level = float(ndtri(1 - alpha))
    return float(max(0.0, (level + float(ndtri(power))) / effect_size) ** 2 + level**2 / 2)


def effect_size(gate: Gate) -> float | None:
    """What a gate is to show, over the standard deviation of the differences; None if that is not known.

    That is the gain, or how far it lies above the largest loss that was conceded.
    """
    if not gate.deviation:
        return None
    return (gate.gain + (0.0 if gate.conceded is None else gate.conceded.margin)) / gate.deviation


def queries_missing(gate: Gate, alpha: float) -> float | None:
    """About how many more queries a gate takes to pass four times in five, if the gain is what it seems to be.

    The p-value of the best of several candidates counts them all. It is taken for that of as many independent tests as
    turn the p-value of this candidate alone into it (Sidak 1967, "Rectangular confidence regions for the means of
    multivariate normal distributions"), each of which has to pass at its share of the level.

    Args:
        gate: one that was not passed.
        alpha: its level.

    Returns:
        At least 1; ``inf`` where there is no gain to show; None where it is not known how the differences vary.
    """
    effect, number = effect_size(gate), gate.num_queries
    if effect is None or number is None:
        return None
    if effect <= 0:
        return math.inf
    p_value = gate.p_value if gate.conceded is None else gate.conceded.p_value
    alone = max(float(ndtr(-effect * math.sqrt(number))), _LEAST)
    num_tests = max(1.0, math.log1p(-min(p_value, 1 - _LEAST)) / math.log1p(-alone))
    level = -math.expm1(math.log1p(-alpha) / num_tests)
    return max(1.0, queries_needed(effect, level) - number)
