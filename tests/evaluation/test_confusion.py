import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from efface.evaluation import confusion
from efface.metrics import counts as of_counts

AIF360 = (
    "statistical_parity_difference",
    "disparate_impact",
    "equal_opportunity_difference",
    "average_odds_difference",
    "theil_index",
)
ALIGNED = torch.tensor([[True, False], [False, True]])


def labels(n: int = 500, k: int = 2, m: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    a = torch.randint(m, (n,), generator=g)
    y = torch.where(torch.rand(n, generator=g) < 0.3, a % k, torch.randint(k, (n,), generator=g))
    return y, a, torch.where(torch.rand(n, generator=g) < 0.7, y, torch.randint(k, (n,), generator=g))


def metrics(y: torch.Tensor, a: torch.Tensor, y_pred: torch.Tensor, k: int = 2, m: int = 2) -> dict[str, torch.Tensor]:
    share = torch.full((k, m), 1 / (k * m), dtype=torch.float64)
    return confusion.metrics(confusion.count(y, a, y_pred, k, m), share, torch.eye(k, m).bool())


@pytest.mark.parametrize("seed", range(5))
def test_binary_metrics_equal_aif360(seed: int) -> None:
    from aif360.datasets import BinaryLabelDataset

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from aif360.metrics import ClassificationMetric

    y, a, y_pred = labels(seed=seed)
    frame = pd.DataFrame({"a": a.numpy(), "y": y.numpy()}, dtype=float)
    options = {"label_names": ["y"], "protected_attribute_names": ["a"]}
    true = BinaryLabelDataset(df=frame, **options)
    predicted = BinaryLabelDataset(df=frame.assign(y=y_pred.double().numpy()), **options)
    theirs = ClassificationMetric(true, predicted, unprivileged_groups=[{"a": 0}], privileged_groups=[{"a": 1}])
    ours = metrics(y, a, y_pred)
    for name in AIF360:
        assert float(ours[name]) == pytest.approx(getattr(theirs, name)(), rel=1e-12), name


def test_binary_metrics_are_undefined_of_other_labels() -> None:
    for k, m in ((3, 2), (2, 3)):
        found = metrics(*labels(k=k, m=m), k=k, m=m)
        assert all(found[name].isnan() for name in AIF360)
    assert metrics(*labels(m=3), m=3)["tpr_gap_rms"].isnan()
    y, a, _ = labels()
    assert metrics(y, a, torch.zeros_like(y))["disparate_impact"].isnan()  # nobody is selected


def test_accuracies_by_hand() -> None:
    y = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    a = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1])
    y_pred = torch.tensor([0, 0, 0, 1, 1, 1, 0, 0])
    counts = confusion.count(y, a, y_pred, 2, 2)
    share = torch.tensor([[0.4, 0.1], [0.3, 0.2]], dtype=torch.float64)
    found = {name: float(value) for name, value in confusion.metrics(counts, share, ALIGNED).items()}
    assert found["accuracy"] == 5 / 8
    assert found["unbiased_accuracy"] == pytest.approx((1 + 0 + 1 / 2) / 3)
    assert found["worst_group_accuracy"] == 0
    assert found["bias_aligned_accuracy"] == pytest.approx(5 / 7)
    assert found["bias_conflicting_accuracy"] == 0
    # The group of y = 1, a = 0 is empty here: the shares of the others count.
    assert found["group_adjusted_accuracy"] == pytest.approx((0.4 * 1 + 0.1 * 0 + 0.2 * 0.5) / 0.7)
    assert found["tpr_gap_rms"] == 1  # known for y = 0 alone
    np.testing.assert_equal(of_counts.true_positive_gaps(counts).numpy(), [1, np.nan])
    nothing = confusion.metrics(counts, share, torch.ones(2, 2).bool())
    assert nothing["bias_conflicting_accuracy"].isnan()


def test_group_adjusted_accuracy_is_accuracy_where_groups_are_as_in_train() -> None:
    y, a, y_pred = labels(k=3, m=4)
    counts = confusion.count(y, a, y_pred, 3, 4)
    share = counts.sum(-1) / counts.sum()
    found = confusion.metrics(counts, share, torch.zeros(3, 4).bool())
    torch.testing.assert_close(found["group_adjusted_accuracy"], found["accuracy"])


def test_gaps_of_many_labels_and_their_correlation() -> None:
    y, a, y_pred = labels(n=4000, k=5)
    counts = confusion.count(y, a, y_pred, 5, 2)
    share = torch.tensor([[0.1, 0.1], [0.05, 0.15], [0.19, 0.01], [0.12, 0.08], [0.02, 0.18]], dtype=torch.float64)
    gap = np.array([[float((y_pred[(y == k) & (a == v)] == k).double().mean()) for v in (0, 1)] for k in range(5)])
    gap = gap[:, 0] - gap[:, 1]
    found = confusion.metrics(counts, share, torch.zeros(5, 2).bool())
    np.testing.assert_allclose(of_counts.true_positive_gaps(counts), gap)
    assert float(found["tpr_gap_rms"]) == pytest.approx(np.sqrt((gap**2).mean()), rel=1e-12)
    of_zero = (share[:, 0] / share.sum(1)).numpy()
    assert float(found["tpr_gap_correlation"]) == pytest.approx(np.corrcoef(gap, of_zero)[0, 1])
    assert metrics(*labels())["tpr_gap_correlation"].isnan()  # two labels


def test_stacked_tables_are_computed_one_by_one() -> None:
    each = [confusion.count(*labels(seed=seed), 2, 2) for seed in range(6)]
    share = torch.full((2, 2), 0.25, dtype=torch.float64)
    stacked = confusion.metrics(torch.stack(each).view(2, 3, 2, 2, 2), share, ALIGNED)
    for i, counts in enumerate(each):
        for name, value in confusion.metrics(counts, share, ALIGNED).items():
            torch.testing.assert_close(stacked[name][i // 3, i % 3], value, equal_nan=True)


@pytest.mark.parametrize(("k", "m"), [(2, 2), (5, 2), (3, 4)])
def test_numpy_arrays_have_the_metrics_of_tensors(k: int, m: int) -> None:
    tables = torch.stack([confusion.count(*labels(n=60, k=k, m=m, seed=seed), k, m) for seed in range(4)])
    share = torch.rand(k, m, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        arrays = of_counts.metrics(tables.numpy()) | of_counts.against_train(
            tables.numpy(), share.numpy(), torch.eye(k, m).bool().numpy()
        )
    for name, value in confusion.metrics(tables, share, torch.eye(k, m).bool()).items():
        np.testing.assert_allclose(arrays[name], value.numpy(), rtol=1e-12, atol=1e-14, err_msg=name)
