"""The published R-LACE algorithm: alternating stochastic gradient steps (Ravfogel et al., ICML 2022, algorithm 1).

A predictor descends and a relaxed projection ascends the loss of the predictor on X (I − R). R, symmetric, is brought
back after each step to the Fantope {R : 0 ⪯ R ⪯ I, tr R = rank}, the convex hull of the projections of that rank. The
result is a true projection: the rounding after which a probe has the highest loss on train. Use it to reproduce the
paper and for comparison; `RlaceEraser` solves the same game in a fraction of the time, to a better value.

The code followed is the authors' `rlace.py` (github.com/shauli-ravfogel/rlace-icml, commit bd0c771).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from efface.erasure.inputs import check_rank, checked_weight, require_dense
from efface.moments import require_finite
from efface.softmax import fit_softmax

_OPTIMIZER_PARAMS = {"lr": 0.005, "weight_decay": 1e-4}


@torch.enable_grad()
def solve_adv_game(
    X_train: Any,
    y_train: Any,
    X_dev: Any,
    y_dev: Any,
    rank: int = 1,
    device: str | torch.device = "cpu",
    out_iters: int = 75_000,
    in_iters_adv: int = 1,
    in_iters_clf: int = 1,
    epsilon: float = 0.0015,
    batch_size: int = 128,
    evalaute_every: int = 1_000,
    optimizer_class: type[torch.optim.Optimizer] = torch.optim.SGD,
    optimizer_params_P: dict[str, Any] | None = None,
    optimizer_params_predictor: dict[str, Any] | None = None,
    *,
    weight: Any = None,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Find a projection P after which a linear predictor of the labels does poorly; clean vectors are `X @ P`.

    Args:
        X_train: `[n, d]`: a tensor, or what numpy makes an array of, such as a data frame.
        y_train: `[n]` labels: integers, booleans or strings.
        X_dev: `[m, d]`, for `score`.
        y_dev: `[m]`
        rank: how many directions P removes, 1 … d − 1.
        device: where to compute.
        out_iters: rounds at most; each is `in_iters_adv` steps of the projection and `in_iters_clf` of the predictor.
        in_iters_adv: see `out_iters`.
        in_iters_clf: see `out_iters`.
        epsilon: stop, from the third round on, when the loss of a probe on train has come this close to the entropy of
            its labels, in nats.
        batch_size: samples drawn for each step, without replacement.
        evalaute_every: rounds from one evaluation to the next, of which the first follows the first round; the
            spelling is that of the original.
        optimizer_class: the optimiser of both players.
        optimizer_params_P: its arguments for the projection; `{"lr": 0.005, "weight_decay": 1e-4}` if None.
        optimizer_params_predictor: its arguments for the predictor; the same if None.
        weight: importance weights `[n]` of the training samples: batches are drawn in proportion, with replacement.
        seed: draws batches and initial values.
        progress: show a progress bar with the current and the highest loss, and the entropy that bounds them.

    Returns:
        `P` `[d, d]`, the projection after which a probe has the highest loss on train; `P_before_svd` `[d, d]`, the
        relaxed I − R that it rounds; `score`, the accuracy on dev of the probe at P. Both matrices are tensors if
        X_train is, else numpy arrays. `loss`, that of the probe, and `iterations`, the rounds played, are new here.

    Differences from the original:

    * A probe is one converged softmax regression on standardised features, instead of the best of three stochastic
      ones on the features as they are, which stop early and report a higher loss than there is.
    * `score` belongs to P and is read on dev. There it is the accuracy on train closest to the share of the largest
      class, of any round, and dev is not used.
    * The Fantope projection is exact, instead of 25 bisections.
    * Draws come from `seed` alone; float64 data are computed in float64; there are weights; labels may be any; bad
      input raises.

    Cost: an eigendecomposition, O(d³), for each step of the projection, and a softmax regression for each evaluation.

    Raises:
        TypeError: rank is not an integer.
        ValueError: shapes do not fit, values are not finite, there is one class only, or rank or a weight is out of
            range.
        FloatingPointError: an optimiser has diverged.
    """
    _require_positive(
        out_iters=out_iters,
        in_iters_adv=in_iters_adv,
        in_iters_clf=in_iters_clf,
        batch_size=batch_size,
        evalaute_every=evalaute_every,
    )
    x, x_dev = _matrix(X_train, "X_train", device), _matrix(X_dev, "X_dev", device)
    y, y_dev, n_classes = _encode(y_train, y_dev, device)
    _require_same_features(x, y, x_dev, y_dev)
    check_rank(rank, x)
    weight = checked_weight(weight, x)

    game = _SgdGame(x, y, n_classes, rank, weight, batch_size, seed)
    optimizer_P = optimizer_class([game.R], **(optimizer_params_P or _OPTIMIZER_PARAMS))
    optimizer_predictor = optimizer_class([game.W, game.b], **(optimizer_params_predictor or _OPTIMIZER_PARAMS))
    entropy = _entropy(y, weight)
    best, relaxed = _Probe(loss=-1.0, accuracy=0.0), game.R.detach().clone()
    bar = tqdm(range(1, out_iters + 1), desc="solve_adv_game", disable=not progress)
    iteration = 0
    for iteration in bar:
        for _ in range(in_iters_adv):
            game.step_projection(optimizer_P, iteration)
        for _ in range(in_iters_clf):
            game.step_predictor(optimizer_predictor)
        if (iteration - 1) % evalaute_every == 0:
            _require_no_divergence(game.W, iteration, "optimizer_params_predictor")
            probe = _probe(x, y, weight, x_dev, y_dev, _rounded(game.R.detach(), rank))
            if probe.loss > best.loss:
                best, relaxed = probe, game.R.detach().clone()
            bar.set_postfix(loss=f"{probe.loss:.4f}", best=f"{best.loss:.4f}", entropy=f"{entropy:.4f}")
        if iteration > 2 and abs(best.loss - entropy) < epsilon:
            break
    bar.close()
    matrices: dict[str, Any] = {
        "P_before_svd": torch.eye(x.shape[1]).to(relaxed) - relaxed,
        "P": _rounded(relaxed, rank),
    }
    if not isinstance(X_train, Tensor):
        matrices = {name: matrix.cpu().numpy() for name, matrix in matrices.items()}
    return {"score": best.accuracy, "loss": best.loss, **matrices, "iterations": iteration}


class _SgdGame:
    """The two players, a relaxed projection R and a predictor (W, b), and the batches that they play on."""

    def __init__(
        self, x: Tensor, y: Tensor, n_classes: int, rank: int, weight: Tensor | None, batch_size: int, seed: int
    ) -> None:
        n, d = x.shape
        self.x, self.y, self.rank = x, y, rank
        self.batch_size = min(batch_size, n)
        self.weight = None if weight is None else weight.double().cpu()
        self.generator = torch.Generator().manual_seed(seed)
        self.binary = n_classes == 2
        rows = 1 if self.binary else n_classes
        # The initial distribution of `nn.Linear`, weights and intercept alike.
        draws = (2 * torch.rand(rows, d + 1, generator=self.generator) - 1) / d**0.5
        self.W, self.b = (part.to(x).clone().requires_grad_() for part in (draws[:, :d], draws[:, d]))
        noise = 0.1 * torch.randn(d, d, generator=self.generator).to(x)
        self.R = ((noise + noise.mT) / 2).requires_grad_()  # brought to the Fantope by the first step

    def step_projection(self, optimizer: torch.optim.Optimizer, iteration: int) -> None:
        """Raise the loss by a step of R, and bring R back to the Fantope."""
        optimizer.zero_grad()
        (-self._loss()).backward()
        optimizer.step()
        _require_no_divergence(self.R, iteration, "optimizer_params_P")
        with torch.no_grad():
            self.R.copy_(project_to_fantope(self.R, self.rank))

    def step_predictor(self, optimizer: torch.optim.Optimizer) -> None:
        """Lower the loss by a step of the predictor."""
        optimizer.zero_grad()
        self._loss().backward()
        optimizer.step()

    def _loss(self) -> Tensor:
        """Compute the cross-entropy of a random batch."""
        rows = self._draw().to(self.x.device)
        batch = self.x[rows]
        logits = torch.nn.functional.linear(batch - batch @ self.R, self.W, self.b)
        if self.binary:
            return torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], self.y[rows].to(self.x))
        return torch.nn.functional.cross_entropy(logits, self.y[rows])

    def _draw(self) -> Tensor:
        if self.weight is None:
            return torch.randperm(len(self.x), generator=self.generator)[: self.batch_size]
        return torch.multinomial(self.weight, self.batch_size, replacement=True, generator=self.generator)


@torch.no_grad()
def project_to_fantope(R: Tensor, rank: int) -> Tensor:
    """Project a symmetrised R `[d, d]` onto the Fantope {R : 0 ⪯ R ⪯ I, tr R = rank}, in Frobenius norm.

    Its eigenvalues are those of R, shifted by one number and clipped to 0 … 1, so that they sum to `rank` (Vu et al.,
    "Fantope projection and selection", 2013, lemma 4.1). O(d³).
    """
    values, vectors = torch.linalg.eigh((R + R.mT) / 2)
    # The sum of clipped values falls piecewise linearly with the shift, with kinks where a value meets 0 or 1.
    kinks = torch.cat([values, values - 1]).sort().values
    sums = (values - kinks[:, None]).clamp_(0, 1).sum(1)
    right = int((sums > rank).sum())  # sums descend: the shift lies between this kink and the one before
    if right == 0:
        shift = kinks[0]
    else:
        low, high = kinks[right - 1], kinks[min(right, len(kinks) - 1)]
        s_low, s_high = sums[right - 1], sums[min(right, len(kinks) - 1)]
        shift = low + (s_low - rank) / (s_low - s_high).clamp_min(1e-30) * (high - low)
    clipped = (values - shift).clamp(0, 1)
    projected: Tensor = (vectors * clipped) @ vectors.mT
    return projected


def _rounded(R: Tensor, rank: int) -> Tensor:
    """Return the projection off the `rank` leading eigenvectors of R."""
    U = torch.linalg.eigh(R.double())[1][:, -rank:]
    P: Tensor = torch.eye(len(R)).to(U) - U @ U.mT
    return P.to(R.dtype)


@dataclass(frozen=True)
class _Probe:
    loss: float
    """Mean loss on train, in nats."""
    accuracy: float
    """On dev."""


def _probe(x: Tensor, y: Tensor, weight: Tensor | None, x_dev: Tensor, y_dev: Tensor, P: Tensor) -> _Probe:
    """Fit a softmax regression on train, of features after P, to convergence."""
    mean, std = x.mean(0), x.std(0)
    scale = torch.where(std > 0, std, 1)
    fit = fit_softmax((x @ P - mean @ P) / scale, y, weight=weight, l2=1e-5, tol=1e-6)
    hits = fit.logits((x_dev @ P - mean @ P) / scale).argmax(1) == y_dev
    return _Probe(loss=fit.loss, accuracy=float(hits.double().mean()))


def _entropy(y: Tensor, weight: Tensor | None) -> float:
    """Return the entropy of weighted labels, in nats."""
    shares = torch.bincount(y, None if weight is None else weight.to(y.device).double()).double()
    return float(torch.special.entr(shares / shares.sum()).sum())


def _require_positive(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} is {value}, but must be at least 1")


def _require_same_features(x: Tensor, y: Tensor, x_dev: Tensor, y_dev: Tensor) -> None:
    if len(y) != len(x) or len(y_dev) != len(x_dev) or x_dev.shape[1] != x.shape[1]:
        raise ValueError(
            f"X_train is {list(x.shape)} with {len(y)} labels and X_dev {list(x_dev.shape)} with {len(y_dev)}: "
            "give one label for each row, and the same features in both"
        )


def _require_no_divergence(tensor: Tensor, iteration: int, argument: str) -> None:
    if not bool(torch.isfinite(tensor).all()):
        raise FloatingPointError(f"the optimiser has diverged at iteration {iteration}: lower the lr in {argument}")


def _matrix(x: Any, name: str, device: str | torch.device) -> Tensor:
    """Return x as a matrix of floating-point numbers; arrays, frames and lists by way of numpy."""
    if not isinstance(x, Tensor):
        array = np.asarray(x)
        if array.dtype.kind not in "fiub":
            raise ValueError(f"{name} holds {array.dtype}, but must hold numbers: encode what is not a number first")
        x = torch.from_numpy(np.ascontiguousarray(array))
    require_dense(x, name)
    if x.ndim != 2 or len(x) == 0:
        raise ValueError(f"{name} has shape {list(x.shape)}, but must be [n, d], n > 0")
    matrix: Tensor = x.to(device)
    matrix = matrix if matrix.is_floating_point() else matrix.float()
    require_finite(matrix, name)
    return matrix


def _encode(train: Any, dev: Any, device: str | torch.device) -> tuple[Tensor, Tensor, int]:
    """Number labels of any kind 0 … K − 1; return those of train and of dev, and K."""
    names, y = np.unique(_array(train, "y_train"), return_inverse=True)
    dev_labels = _array(dev, "y_dev")
    unknown: Sequence[Any] = np.setdiff1d(dev_labels, names).tolist()
    if unknown:
        raise ValueError(f"y_dev has labels {list(unknown)[:5]} that are not in y_train")
    if len(names) < 2:
        raise ValueError(f"y_train has one class only ({names.tolist()}): there is nothing to erase")
    y_dev = torch.from_numpy(np.searchsorted(names, dev_labels))
    return torch.from_numpy(y.reshape(-1)).to(device), y_dev.to(device), len(names)


def _array(labels: Any, name: str) -> Any:
    if isinstance(labels, Tensor):
        require_dense(labels, name)
    labels = labels.cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if labels.ndim != 1:
        raise ValueError(f"{name} has shape {list(labels.shape)}, but must be labels [n]")
    return labels
