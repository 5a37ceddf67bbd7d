import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score

from efface.data.groups import aligned
from efface.evaluation.metrics import Evaluation, Reference, accuracy_metrics, feature_shift, max_abs_cov
from efface.evaluation.probes import Standardiser
from efface.methods.base import Debiased, Features, Problem, Representation
from efface.methods.leace import Leace


def reference(problem: Problem) -> Reference:
    train = problem.train
    return Reference(Standardiser.of(train.x), aligned(train.y, train.a, problem.n_classes, problem.n_attributes))


def test_accuracies_by_hand() -> None:
    y = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    a = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1])
    correct = torch.tensor([1, 1, 1, 0, 1, 1, 0, 0]).bool()
    metrics, empty = accuracy_metrics(correct, y, a, torch.tensor([[True, False], [False, True]]))
    assert metrics == {
        "accuracy": 5 / 8,
        "unbiased_accuracy": pytest.approx((1 + 0 + 1 / 2) / 3),
        "worst_group_accuracy": 0.0,
        "bias_aligned_accuracy": pytest.approx(5 / 7),
        "bias_conflicting_accuracy": 0.0,
        "group_accuracy": {"y=0,a=0": 1.0, "y=0,a=1": 0.0, "y=1,a=0": None, "y=1,a=1": 0.5},
    }
    assert empty == ["y=1,a=0"]
    nothing, _ = accuracy_metrics(correct, y, a, torch.ones(2, 2).bool())
    assert nothing["bias_conflicting_accuracy"] is None


def test_evaluation_of_the_base_model(ten_classes: Problem) -> None:
    val = ten_classes.val
    debiased = Debiased(Representation(), ten_classes.head)
    other = Features(val.x.roll(1, 0), val.y, (val.a + 1) % 10)
    result = Evaluation()(debiased, val, other, reference(ten_classes))
    logits = ten_classes.head(val.x).detach()
    assert result.metrics["accuracy"] == pytest.approx(accuracy_score(val.y, logits.argmax(1)))
    p = logits.softmax(1)[torch.arange(len(val)), val.y]
    p_cf = ten_classes.head(other.x).detach().softmax(1)[torch.arange(len(val)), val.y]
    assert result.metrics["counterfactual_bias"] == pytest.approx(float((p - p_cf).abs().mean()), rel=1e-5)
    torch.testing.assert_close(result.predictions["p_y_cf"].float(), p_cf)
    assert result.metrics["feature_shift"] == 0
    assert result.metrics["max_abs_cov"] is None
    # Groups that hold no sample of val are null and named, and nothing else is.
    cells = {f"y={y},a={a}" for y, a in zip(val.y.tolist(), val.a.tolist(), strict=True)}
    assert set(result.empty_groups) == {f"y={y},a={a}" for y in range(10) for a in range(10)} - cells
    assert {k for k, v in result.metrics["group_accuracy"].items() if v is None} == set(result.empty_groups)


def test_what_is_switched_off_or_unknown_is_null(ten_classes: Problem) -> None:
    debiased = Debiased(Representation(), ten_classes.head)
    result = Evaluation(probe=False, mlp_probe=False)(debiased, ten_classes.val, None, reference(ten_classes))
    for name in ("counterfactual_bias", "probe_information", "probe_accuracy", "mlp_probe_information"):
        assert result.metrics[name] is None
    assert result.predictions["p_y_cf"].isnan().all()


def test_feature_shift_by_hand() -> None:
    x = torch.tensor([[0.0], [2.0]])
    assert feature_shift(x, x + 1) == pytest.approx(1.0)
    assert feature_shift(x, x.mean(0).expand(2, 1)) == pytest.approx(1.0)
    assert feature_shift(x, x[:, :0]) is None
    assert not math.isnan(feature_shift(x, 2 * x) or 0)


def test_probes_read_what_the_reference_scales(ten_classes: Problem) -> None:
    debiased = Debiased(Representation(), ten_classes.head)
    flat = Reference(Standardiser(torch.zeros(100), torch.full((100,), torch.inf)), reference(ten_classes).aligned)
    result = Evaluation()(debiased, ten_classes.val, None, flat)
    assert abs(result.metrics["probe_information"]) < 1e-2
    assert abs(result.metrics["mlp_probe_information"]) < 0.1


def test_counterfactuals_are_represented_too(ten_classes: Problem) -> None:
    debiased = Leace(fit_on="pairs", reweigh=True).fit(ten_classes)
    pairs, pairs_cf = ten_classes.pairs, ten_classes.pairs_cf
    result = Evaluation(probe=False, mlp_probe=False)(debiased, pairs, pairs_cf, reference(ten_classes))
    p, p_cf = (
        debiased.head(debiased.represent(f.x)).detach().softmax(1)[torch.arange(500), f.y] for f in (pairs, pairs_cf)
    )
    assert result.metrics["counterfactual_bias"] == pytest.approx(float((p - p_cf).abs().mean()), rel=1e-5)


def test_max_abs_cov_by_hand(ten_classes: Problem) -> None:
    val = ten_classes.val
    weight = torch.rand(len(val))
    fitted = Features(val.x, val.y, val.a, weight)
    debiased = Debiased(Representation(), ten_classes.head, fitted_on=fitted)
    z = torch.nn.functional.one_hot(val.a, 10)
    joint = np.cov(np.hstack([val.x, z]), rowvar=False, aweights=weight)
    assert max_abs_cov(debiased, 10) == pytest.approx(np.abs(joint[:100, 100:]).max(), rel=1e-4)
