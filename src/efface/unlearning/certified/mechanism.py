"""The Gaussian mechanism: how far a perturbation of given size hides a shift, and where it is drawn from."""

import functools
import math
import os

import torch
from torch import Tensor


def gaussian_delta(shift: float, epsilon: float) -> float:
    """Return the smallest δ at which N(0, I) and N(u, I), ‖u‖ = `shift`, are (ε, δ)-indistinguishable, exactly.

        δ = Φ(s/2 − ε/s) − e^ε Φ(−s/2 − ε/s)

    Balle & Wang, "Improving the Gaussian mechanism for differential privacy", ICML 2018, theorem 8. Any ε >= 0.
    """
    if shift <= 0:
        return 0.0
    quantiles = torch.tensor([shift / 2 - epsilon / shift, -shift / 2 - epsilon / shift], dtype=torch.float64)
    first, second = torch.special.log_ndtr(quantiles).tolist()
    return max(math.exp(first) - math.exp(epsilon + second), 0.0)


@functools.lru_cache
def allowed_shift(epsilon: float, delta: float) -> float:
    """Return the largest shift, in units of the perturbation's standard deviation, that (ε, δ) allows.

    The inverse of `gaussian_delta` (Balle & Wang, 2018), for every ε. Guo et al. take ε / sqrt(2 ln(1.5/δ)), which
    allows about a third less at ε = 1, and at ε = 10 so much that the exact δ is twice the one asked for.

    Raises:
        ValueError: epsilon is not positive, or delta is not in (0, 1).
    """
    if not 0 < epsilon < math.inf:
        raise ValueError(f"epsilon is {epsilon}, but must be positive and finite")
    if not 0 < delta < 1:
        raise ValueError(f"delta is {delta}, but must lie in (0, 1): it is a probability, well below 1/n")
    low, high = 0.0, 1.0
    while gaussian_delta(high, epsilon) < delta:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_delta(middle, epsilon) <= delta else (low, middle)
    return low


def gaussian(shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
    """Draw independent standard normal float64 values.

    Without a generator they come from the operating system's entropy, 52 bits each, which nobody can draw again. A
    seeded generator is for experiments: whoever knows its seed knows the values, and torch's on a CPU tells no more
    than 2³² seeds apart.
    """
    if generator is not None:
        return torch.randn(shape, generator=generator, dtype=torch.float64, device=generator.device)
    bits = torch.frombuffer(bytearray(os.urandom(8 * math.prod(shape))), dtype=torch.int64)
    # The half keeps clear of 0 and 1, where the quantile function is infinite.
    uniform = ((bits & (2**52 - 1)).to(torch.float64) + 0.5) / 2**52
    values: Tensor = torch.special.ndtri(uniform)
    return values.view(shape)
