"""The published R-LACE algorithm: alternating stochastic gradient steps (Ravfogel et al., ICML 2022, algorithm 1).

A predictor descends and a relaxed projection ascends the loss of the predictor on X (I − R). R, symmetric, is brought
back after each step to the Fantope {R : 0 ⪯ R ⪯ I, tr R = rank}, the convex hull of the projections of that rank. What
is returned is a projection proper: the best rounding, by the accuracy of a converged probe. Kept to reproduce the paper
and to be compared with; `RlaceEraser` solves the same game in a fraction of the time, to a better value.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from efface.erasure.fitting import check_rank
from efface.moments import require_finite
from efface.softmax import fit_softmax


@torch.enable_grad()
def solve_adv_game(
    X_train: Any,
    y_train: Any,
    X_dev: Any,
    y_dev: Any,
    rank: int = 1,
    device: str | torch.device = "cpu",
    out_iters: int = 50_000,
    in_iters_adv: int = 1,
    in_iters_clf: int = 1,
    epsilon: float = 0.0015,
    batch_size: int = 128,
    evalaute_every: int = 1_000,
    optimizer_class: type[torch.optim.Optimizer] = torch.optim.SGD,
    optimizer_params_P: dict[str, Any] | None = None,
    optimizer_params_predictor: dict[str, Any] | None = None,
    *,
    evaluate_every: int | None = None,
    weight: Tensor | None = None,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Find a projection P under which no linear predictor tells the labels; clean vectors are `X @ P`.

    Args:
        X_train: `[n, d]`, numpy array or tensor.
        y_train: `[n]` labels: integers, booleans or strings.
        X_dev: `[m, d]`, on which probes are scored and the best projection is chosen.
        y_dev: `[m]`
        rank: how many directions P removes, 1 … d − 1.
        device: where to compute.
        out_iters: rounds; each is `in_iters_adv` steps of the projection and `in_iters_clf` of the predictor.
        in_iters_adv: see `out_iters`.
        in_iters_clf: see `out_iters`.
        epsilon: stop when the accuracy of a probe is this close to the share of the largest class.
        batch_size: samples drawn for each step.
        evalaute_every: rounds between evaluations; the spelling of the original. `evaluate_every` says the same.
        optimizer_class: of both players.
        optimizer_params_P: its arguments for the projection; `{"lr": 0.003, "weight_decay": 1e-4}` if None.
        optimizer_params_predictor: its arguments for the predictor; the same if None.
        evaluate_every: if given, wins over `evalaute_every`.
        weight: importance weights `[n]` of the training samples: batches are drawn in proportion.
        seed: draws batches and initial values.
        progress: show a progress bar with the current and the best gap between accuracy and majority.

    Returns:
        `score`, the accuracy on dev of a converged probe at the projection chosen; `P_before_svd` `[d, d]`, the relaxed
        solution I − R; `P` `[d, d]`, the projection; both of the kind of X_train. Beside the original's: `iterations`.

    Differences from the original: probes are converged softmax regressions on standardised features (the original's
    default stops early, and reads less than is there), and draws come from `seed` alone.

    Cost: an eigendecomposition, O(d³), for each step of the projection.

    Raises:
        ValueError: shapes do not fit, values are not finite, there is one class only, or rank is out of range.
        FloatingPointError: an optimiser has diverged.
    """
    every = evalaute_every if evaluate_every is None else evaluate_every
    for name, value in {
        "out_iters": out_iters, "in_iters_adv": in_iters_adv, "in_iters_clf": in_iters_clf, "batch_size": batch_size,
        "evaluate_every": every,
    }.items():  # fmt: skip
        if value < 1:
            raise ValueError(f"{name} is {value}, but must be at least 1")
    x, x_dev = _matrix(X_train, "X_train", device), _matrix(X_dev, "X_dev", device)
    y, y_test, classes = _encode(y_train, y_dev, device)
    n, d = x.shape
    if len(y) != n or len(y_test) != len(x_dev) or x_dev.shape[1] != d:
        raise ValueError(
            f"X_train is {list(x.shape)} with {len(y)} labels and X_dev {list(x_dev.shape)} with {len(y_test)}: "
            "give one label for each row, and the same features in both"
        )
    check_rank(rank, x)

    generator = torch.Generator().manual_seed(seed)
    binary = classes == 2
    W = (torch.randn(1 if binary else classes, d, generator=generator) / d**0.5).to(x).requires_grad_()
    b = torch.zeros(len(W)).to(x).requires_grad_()
    noise = 1e-1 * torch.randn(d, d, generator=generator).to(x)
    R = project_to_fantope(noise + noise.mT, rank).requires_grad_()
    defaults = {"lr": 0.003, "weight_decay": 1e-4}
    optimizer_P = optimizer_class([R], **(optimizer_params_P or defaults))
    optimizer_predictor = optimizer_class([W, b], **(optimizer_params_predictor or defaults))

    size, w = min(batch_size, n), None if weight is None else weight.double().cpu()

    def draw() -> Tensor:
        if w is None:
            return torch.randint(n, (size,), generator=generator)
        return torch.multinomial(w, size, replacement=True, generator=generator)

    def loss() -> Tensor:
        rows = draw().to(x.device)
        batch = x[rows]
        logits = torch.nn.functional.linear(batch - batch @ R, W, b)
        if binary:
            return torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], y[rows].to(x))
        return torch.nn.functional.cross_entropy(logits, y[rows])

    majority = float(torch.bincount(y_test).max()) / len(y_test)
    best_gap, best = float("inf"), (0.0, R.detach().clone())
    bar = tqdm(range(1, out_iters + 1), desc="solve_adv_game", disable=not progress)
    iteration = 0
    for iteration in bar:
        for _ in range(in_iters_adv):
            optimizer_P.zero_grad()
            (-loss()).backward()
            optimizer_P.step()
            _require_no_divergence(R, iteration, "optimizer_params_P")
            with torch.no_grad():
                R.copy_(project_to_fantope(R, rank))
        for _ in range(in_iters_clf):
            optimizer_predictor.zero_grad()
            loss().backward()
            optimizer_predictor.step()
        if iteration % every == 0 or iteration == out_iters:
            _require_no_divergence(W, iteration, "optimizer_params_predictor")
            score = _probe(x, y, weight, x_dev, y_test, _rounded(R.detach(), rank))
            gap = abs(score - majority)
            if gap < best_gap:
                best_gap, best = gap, (score, R.detach().clone())
            bar.set_postfix(gap=f"{gap:.4f}", best=f"{best_gap:.4f}")
            if best_gap < epsilon:
                break
    bar.close()
    score, relaxed = best
    P, P_before_svd = _rounded(relaxed, rank), torch.eye(d).to(relaxed) - relaxed
    solution: dict[str, Any] = {"P_before_svd": P_before_svd, "P": P}
    if not isinstance(X_train, Tensor):
        solution = {name: matrix.cpu().numpy() for name, matrix in solution.items()}
    return {"score": score, **solution, "iterations": iteration}


@torch.no_grad()
def project_to_fantope(R: Tensor, rank: int) -> Tensor:
    """The nearest matrix of the Fantope {R : 0 ⪯ R ⪯ I, tr R = rank} to a symmetrised R `[d, d]`, in Frobenius norm.

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
    """The projection off the `rank` leading eigenvectors of R."""
    U = torch.linalg.eigh(R.double())[1][:, -rank:]
    P: Tensor = torch.eye(len(R)).to(U) - U @ U.mT
    return P.to(R.dtype)


def _probe(x: Tensor, y: Tensor, weight: Tensor | None, x_dev: Tensor, y_dev: Tensor, P: Tensor) -> float:
    """Accuracy on dev of a softmax regression that is converged on train."""
    mean, std = x.mean(0), x.std(0)
    scale = torch.where(std > 0, std, 1)
    fit = fit_softmax((x @ P - mean @ P) / scale, y, weight=weight, l2=1e-5, tol=1e-6)
    return float((fit.logits((x_dev @ P - mean @ P) / scale).argmax(1) == y_dev).double().mean())


def _require_no_divergence(tensor: Tensor, iteration: int, argument: str) -> None:
    if not bool(torch.isfinite(tensor).all()):
        raise FloatingPointError(f"the optimiser has diverged at iteration {iteration}: lower the lr in {argument}")


def _matrix(x: Any, name: str, device: str | torch.device) -> Tensor:
    matrix = torch.as_tensor(x).to(device)
    if matrix.ndim != 2 or len(matrix) == 0:
        raise ValueError(f"{name} has shape {list(matrix.shape)}, but must be [n, d], n > 0")
    matrix = matrix if matrix.is_floating_point() else matrix.float()
    require_finite(matrix, name)
    return matrix


def _encode(train: Any, dev: Any, device: str | torch.device) -> tuple[Tensor, Tensor, int]:
    """Labels of any kind as 0 … K − 1, and K."""
    names, y = np.unique(_array(train), return_inverse=True)
    given = _array(dev)
    unknown: Sequence[Any] = np.setdiff1d(given, names).tolist()
    if unknown:
        raise ValueError(f"y_dev has labels {list(unknown)[:5]} that are not in y_train")
    if len(names) < 2:
        raise ValueError(f"y_train has one class only ({names.tolist()}): there is nothing to erase")
    place = torch.from_numpy(np.searchsorted(names, given))
    return torch.from_numpy(y.reshape(-1)).to(device), place.to(device), len(names)


def _array(labels: Any) -> Any:
    labels = labels.cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if labels.ndim != 1:
        raise ValueError(f"labels have shape {list(labels.shape)}, but must be [n]")
    return labels
