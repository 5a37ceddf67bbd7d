"""The loss of an output layer over a vocabulary: gradients and Hessian products, without a matrix of its parameters.

An output layer θ `[V, d]` of 50,000 tokens has tens of millions of parameters. Everything is computed in float32, from
the n × V probabilities of a few hundred tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from efface.newton import LinearMap, conjugate_gradients
from efface.stereotypes.queries import States

_ROWS = 512
"""Tokens whose V logits are in memory at a time, where no more are needed together."""


@dataclass(frozen=True)
class OutputLayer:
    """Logits θ x + b."""

    weight: Tensor
    """θ `[V, d]` float32"""
    bias: Tensor | None = None

    def logits(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return `[n, V]`, of another θ if it is given."""
        return torch.nn.functional.linear(x, self.weight if weight is None else weight, self.bias)

    def log_probabilities(self, states: States, weight: Tensor | None = None) -> list[Tensor]:
        """Return the log-probability of the tokens asked for, float64, a tensor for each query; see `States`."""
        values = []
        for rows in torch.arange(len(states.y), device=states.y.device).split(_ROWS):
            logits = self.logits(states.x[rows], weight)
            values.append((logits.gather(1, states.y[rows, None])[:, 0] - logits.logsumexp(1)).double())
        counts = torch.bincount(states.query)
        return list(torch.cat(values).split(counts.tolist()))

    def gradient(self, states: States, coefficients: Tensor) -> Tensor:
        """Return Σ_i c_i ∇ℓ_i at θ, of its shape, for coefficients c `[m]`, ℓ_i the cross-entropy of a token."""
        total = torch.zeros_like(self.weight)
        for rows in torch.arange(len(states.y), device=states.y.device).split(_ROWS):
            x = states.x[rows]
            residual = self.logits(x).softmax(1)
            residual[torch.arange(len(rows), device=rows.device), states.y[rows]] -= 1
            total += (residual * coefficients[rows, None].to(residual)).mT @ x
        return total


class VocabularyHessian:
    """The Hessian of the mean cross-entropy over n tokens at θ. Its factors take 4 n V bytes.

    Args:
        layer: θ.
        x: what the layer reads at the tokens, `[n, d]`.
    """

    def __init__(self, layer: OutputLayer, x: Tensor) -> None:
        self.x, self.probabilities = x, layer.logits(x).softmax(1)
        self._share = self.probabilities.mean(0)
        self._eigenvalues, self._basis = torch.linalg.eigh((x.mT @ x / len(x)).double())
        self.curvature = float(self._eigenvalues[-1]) / 2
        """A bound of the largest eigenvalue: half that of the mean of x xᵀ, whatever θ."""

    def product(self, v: Tensor) -> Tensor:
        """Return H v for v of θ's shape, in 4 n V d operations."""
        q = self.x @ v.mT
        q = self.probabilities * (q - (self.probabilities * q).sum(1, keepdim=True))
        return q.mT @ self.x / len(self.x)

    def preconditioner(self, damping: float) -> LinearMap:
        """Return r ↦ M⁻¹ r: M is block-diagonal, with the mean of x xᵀ times a token's mean probability, damped."""
        basis = self._basis.float()
        scale = 1 / (self._share[:, None] * self._eigenvalues.clamp_min(0).float() + damping)
        return lambda r: (r @ basis * scale) @ basis.mT

    def solve(self, b: Tensor, *, damping: float, tol: float, max_iter: int) -> tuple[Tensor, int, float]:
        """Solve (H + damping · I) v = b by conjugate gradients.

        Returns:
            v, the products taken, and the residual ‖b − (H + damping · I) v‖ / ‖b‖.
        """
        damped: Callable[[Tensor], Tensor] = lambda v: self.product(v) + damping * v  # noqa: E731
        solved = conjugate_gradients(damped, b, precondition=self.preconditioner(damping), tol=tol, max_iter=max_iter)
        return solved.solution, solved.iterations, solved.residual
