"""Influence functions on bias: which training samples made the model biased.

Up-weighting sample k by ε in the training objective moves its minimum by −ε H⁻¹ ∇ℓ_k, and so the bias by ε I_k,

    I_k = −∇B(θ̂)ᵀ H⁻¹ ∇ℓ(z_k, θ̂)

(Koh & Liang, ICML 2017; Chen et al., NeurIPS 2023, equation 5). H and ∇B are those of the head alone or of several
layers, and one solve serves all samples. Leaving sample k out is ε = −w_k: the bias changes by about −w_k I_k. This is
exact to first order at the minimum of the objective, close for one sample, and far off for many influential samples
left out together.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from efface.softmax import SoftmaxObjective
from efface.unlearning.bias import Bias
from efface.unlearning.inverse import InverseHessian


@dataclass(frozen=True)
class Influence:
    """Influence of every training sample on one bias."""

    bias: float
    """B at θ̂."""
    values: Tensor
    """`[n]` I_k: positive for harmful samples, whose weight raises the bias."""
    weight: Tensor
    """`[n]` w_k of each sample in the objective, summing to 1."""

    def ranking(self) -> Tensor:
        """Return row numbers, the most harmful first."""
        return (self.weight * self.values).argsort(descending=True, stable=True)

    def predicted_change(self, rows: Tensor) -> float:
        """Return the change of the bias when the samples in `rows` are left out, to first order."""
        return -float((self.weight * self.values)[rows].sum())

    def raised(self) -> bool:
        """Tell whether any sample raises the bias."""
        return bool((self.values > 0).any())

    def removal_limit(self) -> int:
        """Return how many samples of the ranking can be left out before the predicted bias is 0, or rises again."""
        predicted = self.bias - (self.weight * self.values)[self.ranking()].cumsum(0)
        harmful = int((self.weight * self.values > 0).sum())
        reached = (predicted <= 0).nonzero()
        return min(harmful, int(reached[0, 0]) + 1) if len(reached) else harmful

    def summary(self, aligned: Tensor, *, top: int, bins: int = 30) -> dict[str, Any]:
        """Summarise for a record who the harmful samples are, with the histogram of I.

        Args:
            aligned: `[n]` bool, the bias-aligned samples.
            top: how many of the most harmful to look at.
            bins: of the histogram, over the middle 99 % of the values; those outside are in the first and last.
        """
        top = min(top, len(self.values))
        first = self.ranking()[:top]
        values = self.values.double()
        low, high = (float(values.kthvalue(int(q * (len(values) - 1)) + 1).values) for q in (0.005, 0.995))
        if high <= low:
            high = low + 1.0
        edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
        index = torch.bucketize(values.cpu(), edges[1:-1])
        is_aligned = aligned.cpu()
        return {
            "bias": self.bias,
            "top": top,
            "aligned_share": float(aligned.double().mean()),
            "aligned_share_of_harmful": float(aligned[first].double().mean()),
            "aligned_share_of_helpful": float(aligned[self.ranking()[-top:]].double().mean()),
            "removal_limit": self.removal_limit(),
            "histogram": {
                "edges": edges.tolist(),
                "aligned": torch.bincount(index[is_aligned], minlength=bins).tolist(),
                "conflicting": torch.bincount(index[~is_aligned], minlength=bins).tolist(),
            },
        }


@torch.no_grad()
def influence_on_bias(objective: SoftmaxObjective, theta: Tensor, bias: Bias, inverse: InverseHessian) -> Influence:
    """Return I of every sample of a head's objective: one solve, and one pass of 2nKd operations.

    Args:
        objective: what θ minimises, on the training samples.
        theta: `[K, d(+1)]`, its minimum. Elsewhere I is that of the objective less its slope at θ:
            f(θ′) − ∇f(θ)ᵀθ′, whose minimum is θ.
        bias: the functional B.
        inverse: of the objective's Hessian at θ, see `efface.unlearning.inverse.head_inverse`.

    Raises:
        ValueError: θ is not finite, or has another shape than the objective's parameters.
    """
    if theta.shape != objective.shape or not bool(theta.isfinite().all()):
        raise ValueError(
            f"theta has shape {list(theta.shape)}, but must be finite and {list(objective.shape)}: pass the minimum of "
            "the objective"
        )
    theta = theta.to(objective.x)
    solved = inverse(bias.gradient(theta))
    slopes = objective.sample_slopes(solved, objective.logits(theta).softmax(1))
    return Influence(bias=bias.value(theta), values=-slopes, weight=objective.weight)
