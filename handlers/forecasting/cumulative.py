"""Distribution functions of the families that models predict: how much of a distribution lies below a value.

The regularized incomplete gamma and beta functions are computed as in the NIST Digital Library of Mathematical Functions (8.7.1, 8.9.2,
8.17.22), the continued fractions by the method of Lentz. With parameters above `LARGE` these would take long: there the approximations of
Wilson and Hilferty (1931) and of Paulson (1942) hold, to a thousandth of the probability.
"""

import math
from collections.abc import Callable, Iterator, Sequence

LARGE = 1e6
TINY, PRECISION = 1e-300, 1e-14
MAX_TERMS = 100_000  # more than parameters up to LARGE need


def normal(parameters: Sequence[float], value: float) -> float:
    """Return P(Y ≤ value) of mean and standard deviation."""
    mean, deviation = parameters
    return _standard_normal((value - mean) / deviation)


def student(parameters: Sequence[float], value: float) -> float:
    """Return P(Y ≤ value) of degrees of freedom, location and scale."""
    freedom, location, scale = parameters
    t = (value - location) / scale
    if freedom > LARGE:
        return _standard_normal(t)
    tail = _beta(freedom / 2, 0.5, freedom / (freedom + t * t), t * t / (freedom + t * t)) / 2
    return tail if t < 0 else 1 - tail


def poisson(parameters: Sequence[float], value: float) -> float:
    """Return P(Y ≤ value) of a rate."""
    (rate,) = parameters
    if value < 0:
        return 0.0
    return 1.0 if rate == 0 else 1 - _gamma(math.floor(value) + 1, rate)


def negative_binomial(parameters: Sequence[float], value: float) -> float:
    """Return P(Y ≤ value) of mean and dispersion."""
    mean, dispersion = parameters
    if value < 0:
        return 0.0
    product = mean * dispersion
    return 1.0 if mean == 0 else _beta(1 / dispersion, math.floor(value) + 1, 1 / (1 + product), product / (1 + product))


CONTINUOUS: dict[str, Callable[[Sequence[float], float], float]] = {"normal": normal, "studentt": student}
COUNTS: dict[str, Callable[[Sequence[float], float], float]] = {"poisson": poisson, "negative-binomial": negative_binomial}


def shares(kind: str, parameters: Sequence[float], value: float) -> tuple[float, float]:
    """Return P(Y < value) and P(Y ≤ value) of a family; they differ for counts."""
    if kind in COUNTS:
        return COUNTS[kind](parameters, math.ceil(value) - 1), COUNTS[kind](parameters, value)
    share = CONTINUOUS[kind](parameters, value)
    return share, share


def of_quantiles(quantiles: Sequence[float], levels: Sequence[float], value: float) -> tuple[float, float]:
    """Return P(Y < value) and P(Y ≤ value) of a distribution known by its quantiles: the inverse of `distributions.from_quantiles`.

    They differ where quantiles are equal, so that some probability lies on one value.
    """
    ordered = sorted(quantiles)
    return _share(ordered, levels, value, below=True), _share(ordered, levels, value, below=False)


def _share(ordered: Sequence[float], levels: Sequence[float], value: float, below: bool) -> float:
    place = sum(quantile < value if below else quantile <= value for quantile in ordered)  # quantiles below the value
    if place == 0:
        return _tail(ordered[0], ordered[1], levels[0], levels[1], value)
    if place == len(ordered):
        return 1 - _tail(-ordered[-1], -ordered[-2], 1 - levels[-1], 1 - levels[-2], -value)
    low, high = ordered[place - 1], ordered[place]
    return levels[place - 1] + (levels[place] - levels[place - 1]) * (value - low) / (high - low)


def _tail(first: float, second: float, share: float, next_share: float, value: float) -> float:
    """Return the share below a value that is at most `first`: exponential, as two quantiles say; nothing where they are equal."""
    if value == first:
        return share
    return 0.0 if second == first else share * (next_share / share) ** ((value - first) / (second - first))


def _standard_normal(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))


def _gamma(a: float, x: float) -> float:
    """Return P(a, x), the regularized lower incomplete gamma function, for a ≥ 1 and x > 0."""
    if max(a, x) > LARGE:
        return _standard_normal(3 * math.sqrt(a) * ((x / a) ** (1 / 3) - 1 + 1 / (9 * a)))
    front = math.exp(a * math.log(x) - x - math.lgamma(a))
    if x < a + 1:
        total = term = 1 / a
        for n in range(1, MAX_TERMS):
            term *= x / (a + n)
            total += term
            if term < total * PRECISION:
                break
        return min(front * total, 1.0)
    return 1 - min(front * _fraction(x + 1 - a, ((-n * (n - a), x + 2 * n + 1 - a) for n in range(1, MAX_TERMS))), 1.0)


def _beta(a: float, b: float, x: float, rest: float) -> float:
    """Return I_x(a, b), the regularized incomplete beta function; `rest` is 1 - x, which is known better than from x."""
    if x <= 0 or rest <= 0:
        return 0.0 if x <= 0 else 1.0
    if max(a, b) > LARGE:
        left, right = (b * x) ** (1 / 3), (a * rest) ** (1 / 3)
        z = 3 * (left * (1 - 1 / (9 * b)) - right * (1 - 1 / (9 * a))) / math.sqrt(left * left / b + right * right / a)
        return _standard_normal(z)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(b, a, rest, x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(rest)) / a
    return min(front * _fraction(1.0, _beta_terms(a, b, x)), 1.0)


def _beta_terms(a: float, b: float, x: float) -> Iterator[tuple[float, float]]:
    yield -(a + b) * x / (a + 1), 1.0
    for m in range(1, MAX_TERMS):
        yield m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)), 1.0
        yield -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)), 1.0


def _fraction(first: float, terms: Iterator[tuple[float, float]]) -> float:
    """Return 1 / (first + a₁ / (b₁ + a₂ / (b₂ + …))) of terms (a, b)."""
    value = ratio = first or TINY
    inverse = 0.0
    for a, b in terms:
        inverse = 1 / ((b + a * inverse) or TINY)
        ratio = (b + a / ratio) or TINY
        change = ratio * inverse
        value *= change
        if abs(change - 1) < PRECISION:
            break
    return 1 / value
