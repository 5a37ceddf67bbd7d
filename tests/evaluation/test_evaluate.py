import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score

from efface.debiased import Debiased
from efface.evaluation import confusion, scores
from efface.evaluation.evaluate import Evaluation, Reference, feature_shift, max_abs_cov
from efface.evaluation.probes import Standardiser
from efface.methods.leace import Leace
from efface.metrics import METRICS
from efface.problem import Features, Problem
from efface.representations import Representation, WithoutColumns


def reference(problem: Problem) -> Reference:
    return Reference.of(problem.train, problem.n_classes, problem.n_attributes)


def test_reference_is_train(ten_classes: Problem) -> None:
    found = reference(ten_classes)
    torch.testing.assert_close(found.standardise.mean, ten_classes.train.x.mean(0))
    assert float(found.share.sum()) == pytest.approx(1)
    assert float(found.share[3, 3]) == pytest.approx(0.1 * 0.95)
    assert torch.equal(found.aligned, torch.eye(10).bool())


def test_groups_are_named_and_empty_ones_null() -> None:
    y = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    a = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1])
    y_pred = torch.tensor([0, 0, 0, 1, 1, 1, 0, 0])
    share, aligned = torch.full((2, 2), 0.25), torch.tensor([[True, False]] * 2)
    measured = confusion.measure(y_pred, y, a, share, aligned)
    metrics = measured.metrics
    assert metrics["group_accuracy"] == {"y=0,a=0": 1.0, "y=0,a=1": 0.0, "y=1,a=0": None, "y=1,a=1": 0.5}
    assert metrics["tpr_gap"] == {"y=0": 1.0, "y=1": None}
    assert metrics["tpr_gap_correlation"] is None
    assert "fewer than three labels" in measured.reasons["tpr_gap_correlation"]


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


def test_metrics_switched_off_or_unknown_are_null_with_a_reason(ten_classes: Problem) -> None:
    debiased = Debiased(Representation(), ten_classes.head)
    result = Evaluation(probe=False, mlp_probe=False)(debiased, ten_classes.val, None, reference(ten_classes))
    told = {
        "counterfactual_bias": "no counterfactual",
        "probe_information": "evaluation.probe",
        "probe_accuracy": "evaluation.probe",
        "mlp_probe_information": "evaluation.mlp_probe",
        "theil_index": "binary label",
        "tpr_gap_rms": "binary attribute",
        "max_abs_cov": "no samples that an eraser was fitted on",
    }
    for name, reason in told.items():
        assert result.metrics[name] is None
        assert reason in result.reasons[name]
    assert set(result.reasons) == {name for name, value in result.metrics.items() if value is None}
    assert result.predictions["p_y_cf"].isnan().all()


def test_feature_shift_by_hand() -> None:
    x = torch.tensor([[0.0], [2.0]])
    assert feature_shift(x, x + 1) == pytest.approx(1.0)
    assert feature_shift(x, x.mean(0).expand(2, 1)) == pytest.approx(1.0)
    assert feature_shift(x, x[:, :0]) is None
    assert not math.isnan(feature_shift(x, 2 * x) or 0)
    assert feature_shift(torch.ones(2, 1), x) is None


def test_a_shift_of_constant_features_is_null_with_a_reason() -> None:
    features, known = noisy(200)
    constant = replace(features, x=torch.ones(200, 4))
    moved = Debiased(WithoutColumns(dropped=torch.ones(4).bool(), constant=torch.zeros(4)), head())
    result = Evaluation(probe=False, mlp_probe=False)(moved, constant, None, known)
    assert result.metrics["feature_shift"] is None
    assert "constant" in result.reasons["feature_shift"]


def test_a_model_that_has_diverged_is_not_evaluated() -> None:
    """Covers faults A8."""
    features, known = noisy(200)
    broken = head()
    broken.weight[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="has diverged: its logits of 200 of 200 samples"):
        Evaluation(probe=False, mlp_probe=False)(Debiased(Representation(), broken), features, None, known)


def test_probes_read_what_the_reference_scales(ten_classes: Problem) -> None:
    debiased = Debiased(Representation(), ten_classes.head)
    flat = Standardiser(torch.zeros(100), torch.full((100,), torch.inf))
    result = Evaluation()(debiased, ten_classes.val, None, replace(reference(ten_classes), standardise=flat))
    assert abs(result.metrics["probe_information"]) < 1e-2
    assert abs(result.metrics["mlp_probe_information"]) < 0.1


def noisy(n: int = 3000, seed: int = 0) -> tuple[Features, Reference]:
    """x tells y and a, which go together."""
    g = torch.Generator().manual_seed(seed)
    a = torch.randint(2, (n,), generator=g)
    y = torch.where(torch.rand(n, generator=g) < 0.7, a, 1 - a)
    x = torch.randn(n, 4, generator=g)
    x[:, 0] += 2 * y
    x[:, 1] += 2 * a
    features = Features(x, y, a)
    return features, Reference.of(features, 2, 2)


def head() -> torch.nn.Linear:
    layer = torch.nn.Linear(4, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, 0, 0, 0], [2.0, 1, 0, 0]]))
        layer.bias.copy_(torch.tensor([0.0, -3]))
    return layer.requires_grad_(False)


def test_probes_are_trained_under_both_distributions_where_label_and_attribute_go_together() -> None:
    features, known = noisy()
    result = Evaluation(mlp_probe=False)(Debiased(Representation(), head()), features, None, known)
    natural, balanced = result.metrics["probe_information"], result.metrics["balanced_probe_information"]
    assert natural > balanced > 0.3  # the label helps under the natural distribution
    assert result.metrics["probe_auc"] > 0.9
    g = torch.Generator().manual_seed(1)
    independent = Features(features.x, torch.randint(2, (3000,), generator=g), features.a)
    other = Evaluation(mlp_probe=False)(Debiased(Representation(), head()), independent, None, known)
    assert other.metrics["balanced_probe_information"] is None
    assert "independent" in other.reasons["balanced_probe_accuracy"]
    assert other.metrics["probe_information"] is not None


def test_erased_features_are_measured_where_the_un_erased_ones_tell() -> None:
    features, known = noisy()
    hidden = Debiased(WithoutColumns(dropped=torch.ones(4).bool(), constant=torch.zeros(4)), head())
    result = Evaluation(mlp_probe=False)(hidden, features, None, known)
    assert result.metrics["probe_information"] == pytest.approx(0, abs=1e-4)
    silent = Features(torch.randn(3000, 4, generator=torch.Generator().manual_seed(0)), features.y, features.a)
    nothing = Evaluation(mlp_probe=False)(hidden, silent, None, known)
    assert nothing.metrics["probe_information"] is None
    assert "from the un-erased features" in nothing.reasons["probe_information"]


def test_scores_within_labels_by_hand() -> None:
    p, y = torch.tensor([0.9, 0.7, 0.5, 0.2, 0.6]).double(), torch.tensor([0, 0, 0, 1, 1])
    found = scores.measure(p, y, torch.tensor([0, 1, 1, 0, 0]), 2, 2).metrics
    assert found["conditional_score_gap"] == {"y=0": pytest.approx(0.3), "y=1": None}
    assert found["conditional_score_gap_mean_abs"] == pytest.approx(0.3)
    assert found["score_energy_distance"]["y=1"] is None
    assert found["score_energy_distance_mean"] == found["score_energy_distance"]["y=0"] > 0
    many = scores.measure(p, y, torch.tensor([0, 1, 2, 0, 2]), 2, 3).metrics
    assert many["conditional_score_gap_mean_abs"] is None
    assert many["score_energy_distance_mean"] > 0


def test_intervals_hold_their_metrics_and_shrink_with_n() -> None:
    widths = []
    for n in (1000, 16_000):
        features, known = noisy(n)
        evaluation, debiased = Evaluation(mlp_probe=False, bootstrap=500), Debiased(Representation(), head())
        other = Features(features.x.roll(1, 1), features.y, 1 - features.a)
        result = evaluation(debiased, features, other, known)
        found = evaluation.intervals(result, features, known)
        assert set(found) >= {"accuracy", "theil_index", "counterfactual_bias", "conditional_score_gap_mean_abs"}
        assert set(found) >= {"probe_information", "balanced_probe_accuracy", "statistical_parity_difference"}
        assert "tpr_gap_correlation" not in found  # null, so there is none
        for name, bounds in found.items():
            assert bounds is not None
            assert bounds[0] <= result.metrics[name] <= bounds[1], name
        low, high = found["accuracy"]  # type: ignore[misc]
        p = result.metrics["accuracy"]
        assert high - low == pytest.approx(2 * 1.96 * math.sqrt(p * (1 - p) / n), rel=0.15)
        widths.append(found["equal_opportunity_difference"][1] - found["equal_opportunity_difference"][0])  # type: ignore
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.3)


def test_intervals_are_wider_where_samples_come_in_clusters() -> None:
    features, known = noisy(500)
    cluster = torch.arange(500).repeat_interleave(8)
    copies = Features(*(t.repeat_interleave(8, 0) for t in (features.x, features.y, features.a)))
    evaluation, debiased = Evaluation(probe=False, mlp_probe=False), Debiased(Representation(), head())
    widths = []
    for data in (copies, replace(copies, cluster=cluster)):
        low, high = evaluation.intervals(evaluation(debiased, data, None, known), data, known)["accuracy"]  # type: ignore
        widths.append(high - low)
    assert widths[1] / widths[0] == pytest.approx(math.sqrt(8), rel=0.15)
    off = replace(evaluation, bootstrap=0)
    assert off.intervals(off(debiased, copies, None, known), copies, known) == {}
    with pytest.raises(ValueError, match="bootstrap is -1"):
        Evaluation(bootstrap=-1)


def test_every_metric_is_described() -> None:
    features, known = noisy(1_000)
    evaluation, debiased = Evaluation(probe=False, mlp_probe=False), Debiased(Representation(), head())
    result = evaluation(debiased, features, features, known)
    evaluation.intervals(result, features, known)
    defined = [metric.key for metric in METRICS]
    assert len(set(defined)) == len(defined)
    assert set(result.metrics) <= set(defined)
    assert {m.key for m in METRICS if m.per} == {k for k, v in result.metrics.items() if isinstance(v, dict)}


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
