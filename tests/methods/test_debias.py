from collections.abc import Callable

import pytest
import torch
from tests.unlearning.test_edits import biased_data
from torch import Tensor, nn

from efface.data.groups import val_score
from efface.methods.debias import debias_head
from efface.unlearning.head import Head, head_of
from efface.unlearning.objective import TrainingObjective


def trained_head(x: Tensor, y: Tensor, *, bias: bool = True) -> nn.Linear:
    """Return a head that has learnt the spurious rule: at the minimum on train."""
    head = Head(n_classes=3, bias=bias)
    start = torch.zeros(3, x.shape[1] + bias, dtype=torch.float64)
    theta = head.minimise(TrainingObjective(x=x, y=y, l2=1e-3), start, max_iter=100).theta
    return head_of(theta, bias=bias)


def val_data(n: int = 300, *, unbiased: bool = True, seed: int = 3) -> dict[str, Tensor]:
    x, y, x_cf = biased_data(n, seed=seed)
    x = x_cf if unbiased else x
    return {"x_val": x, "y_val": y, "a_val": x[:, 3:].argmax(1)}


def score(head: nn.Linear, val: dict[str, Tensor]) -> float:
    return val_score(head(val["x_val"]), val["y_val"], val["a_val"], 3, 3, "unbiased_accuracy")


@pytest.mark.parametrize("bias", [True, False])
def test_head_is_debiased_without_val(bias: bool) -> None:
    x, y, x_cf = biased_data()
    head = trained_head(x, y, bias=bias)
    before = head.weight.clone()
    debiased, minimum = debias_head(head, x, y, x_cf=x_cf[:100], y_cf=y[:100])
    assert torch.equal(head.weight, before)
    assert minimum.converged
    _, test_y, test_cf = biased_data(2000, seed=5)
    accuracy, was = (float((h(test_cf).argmax(1) == test_y).double().mean()) for h in (debiased, head))
    assert accuracy > max(0.5, was + 0.1)


@pytest.mark.parametrize("bias", [True, False])
def test_head_moves_on_the_path_that_val_chooses(bias: bool) -> None:
    x, y, x_cf = biased_data()
    head, val = trained_head(x, y, bias=bias), val_data()
    debiased, minimum = debias_head(head, x, y, x_cf=x_cf[:100], y_cf=y[:100], **val)
    assert minimum.iterations > 0
    assert minimum.converged
    assert score(debiased, val) > score(head, val) + 0.1
    theta = torch.cat([debiased.weight, debiased.bias[:, None]], 1) if bias else debiased.weight
    torch.testing.assert_close(minimum.theta.float(), theta)


@pytest.mark.parametrize("seed", range(8))
def test_head_never_scores_below_itself_on_val(seed: int) -> None:
    x, y, _ = biased_data(seed=seed)
    g = torch.Generator().manual_seed(seed)
    head = trained_head(x, y)
    misleading = torch.randn(60, 6, generator=g), torch.randint(3, (60,), generator=g)
    val = val_data(40, unbiased=bool(seed % 2), seed=seed + 20)
    debiased, _ = debias_head(head, x, y, x_cf=misleading[0], y_cf=misleading[1], alpha=0.95, **val)
    assert score(debiased, val) >= score(head, val)


def test_head_stays_where_nothing_beats_it() -> None:
    x, y, _ = biased_data()
    head, val = trained_head(x, y).double(), val_data(unbiased=False)
    shuffled = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]
    val["x_val"] = val["x_val"].double()
    debiased, minimum = debias_head(head, x, y, x_cf=x, y_cf=shuffled, **val)
    assert minimum.iterations == 0
    assert not minimum.converged, "it is no minimum of what the pairs make of train"
    assert torch.equal(debiased.weight, head.weight)
    assert torch.equal(debiased.bias, head.bias)


def test_path_does_not_depend_on_units() -> None:
    x, y, x_cf = biased_data()
    head, val = trained_head(x, y), val_data()
    units = torch.tensor([1.0, 1e3, 1.0, 1e-2, 1.0, 1.0])
    scaled = head_of(torch.cat([head.weight.double() / units, head.bias.double()[:, None]], 1))
    other_val = {**val, "x_val": val["x_val"] * units}
    plain, _ = debias_head(head, x, y, x_cf=x_cf[:100], y_cf=y[:100], **val)
    other, _ = debias_head(scaled, x * units, y, x_cf=x_cf[:100] * units, y_cf=y[:100], **other_val)
    torch.testing.assert_close(other(x * units), plain(x), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda head, x, y, x_cf: (head, x, y, x_cf[:, :5]), r"x_cf has shape \[400, 5\], but must be \[400, 6\]"),
        (lambda head, x, y, x_cf: (head, x, y, x_cf[:9]), r"x_cf has shape \[9, 6\], but must be \[400, 6\]"),
        (lambda head, x, y, x_cf: (head, x, y + 5, x_cf), "y has labels from 5 to 7, but must lie in 0 … 2"),
        (lambda head, x, y, x_cf: (head, x, y.float(), x_cf), "y has shape .* and dtype torch.float32"),
        (lambda head, x, y, x_cf: (head, x, y, x_cf * torch.nan), "x_cf has 2400 NaN or infinite values"),
        (lambda head, x, y, x_cf: (diverged(head), x, y, x_cf), "head has NaN or infinite weights: it has diverged"),
    ],
)
def test_debias_head_refuses(change: Callable[..., tuple], message: str) -> None:
    """Covers faults A8 and C4."""
    head, x, y, x_cf = change(nn.Linear(6, 3), *biased_data())
    with pytest.raises(ValueError, match=message):
        debias_head(head, x, y, x_cf=x_cf, y_cf=biased_data()[1])


def diverged(head: nn.Linear) -> nn.Linear:
    with torch.no_grad():
        head.weight[0, 0] = torch.nan
    return head


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_val": None, "a_val": None}, "y_val, a_val is missing: give x_val, y_val and a_val, or none"),
        ({"l2": 1e-2}, "l2 is 0.01, but with val λ is chosen there"),
        ({"x_val": torch.zeros(300, 5)}, r"x_val has shape \[300, 5\], but must be \[300, 6\]"),
        ({"a_val": torch.zeros(9, dtype=torch.int64)}, r"a_val \[9\]: give a row, a label and an attribute"),
        ({"a_val": torch.full((300,), -1)}, "a_val has labels from -1"),
        ({"y_val": torch.full((300,), 7)}, "y_val has labels from 7 to 7, but must lie in 0 … 2"),
        ({"y_cf": torch.full((400,), 7)}, "y_cf has labels from 7 to 7"),
        ({"x_val": torch.full((300, 6), torch.inf)}, "x_val has 1800 NaN or infinite values"),
        ({"select": "best"}, "rule is 'best', but must be one of"),
        ({name: torch.zeros(0, dtype=torch.int64) for name in ("x_val", "y_val", "a_val")}, "x_val has no samples"),
    ],
)
def test_debias_head_refuses_val_that_does_not_fit(change: dict[str, Tensor | float | None], message: str) -> None:
    x, y, x_cf = biased_data()
    with pytest.raises(ValueError, match=message):
        debias_head(nn.Linear(6, 3), x, y, **{"x_cf": x_cf, "y_cf": y, **val_data(), **change})
