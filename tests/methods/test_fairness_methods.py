"""Methods of fairlearn and AIF360 beside what these packages compute themselves, on a table and on digits."""

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from tests.conftest import executed

from efface import extras
from efface.debiased import Debiased
from efface.methods.base import NotApplicable
from efface.methods.calibrated_eq_odds import CalibratedEqOdds
from efface.methods.disparate_impact_remover import DisparateImpactRemover
from efface.methods.exponentiated_gradient import ExponentiatedGradient
from efface.methods.threshold_optimizer import ThresholdOptimizer, _estimator
from efface.methods.wrapping import quietly, scores
from efface.problem import Features, Problem

CONSTRAINTS = get_args(ThresholdOptimizer.__annotations__["constraint"])


def share_of_ones(debiased: Debiased, data: Features) -> torch.Tensor:
    """The probability of label 1 over all draws, exactly: that of the rules which give it."""
    decide = debiased.decide
    assert decide is not None
    total = torch.zeros(len(data), dtype=torch.float64)
    for rule in range(decide.probability.shape[1]):
        alone = torch.zeros_like(decide.probability)
        alone[:, rule] = 1
        state = {**decide.state_dict(), "probability": alone}
        chosen = replace(debiased, decide=type(decide)(**state))(data.x, data.a).argmax(1)
        weight = decide.probability[data.a if decide.uses_attribute else torch.zeros_like(data.a), rule]
        total += weight * chosen
    return total


def rates(debiased: Debiased, data: Features) -> list[float]:
    """The share of label 1 under each value of the attribute, over all draws."""
    share = share_of_ones(debiased, data)
    return [float(share[data.a == value].mean()) for value in range(2)]


def test_regressions_are_drawn_as_fairlearn_draws_them(tabular: Problem) -> None:
    debiased = ExponentiatedGradient(max_iter=8).fit(tabular)
    train, x = tabular.train, tabular.train.x.double()
    x = ((x - x.mean(0)) / x.std(0, correction=0).clamp_min(1e-6)).numpy()
    with quietly():
        from fairlearn.reductions import DemographicParity
        from fairlearn.reductions import ExponentiatedGradient as Fairlearn
        from sklearn.linear_model import LogisticRegression

        regression = LogisticRegression(C=1 / (1e-4 * len(x)), max_iter=1000)
        theirs = Fairlearn(regression, DemographicParity(difference_bound=0.01), eps=0.01, max_iter=8)
        theirs.fit(x, train.y.numpy(), sensitive_features=train.a.numpy())
        expected = torch.from_numpy(theirs._pmf_predict(x)[:, 1])
    assert float((share_of_ones(debiased, train) - expected).abs().mean()) < 1e-3
    before, after = rates(unconstrained(tabular), train), rates(debiased, train)
    assert abs(after[0] - after[1]) < 0.03 < abs(before[0] - before[1])
    assert debiased.info["randomised"]
    assert debiased.info["regressions"] >= 2


def unconstrained(problem: Problem) -> Debiased:
    """The same regression where the rates may differ as they like."""
    return ExponentiatedGradient(bound=1.0, max_iter=1).fit(problem)


def test_regressions_of_one_label_become_constants(tabular: Problem) -> None:
    """Under a bound so tight that some weighting leaves one label alone."""
    debiased = ExponentiatedGradient(bound=1e-6, max_iter=12).fit(tabular)
    assert debiased(tabular.val.x).isfinite().all()
    after = rates(debiased, tabular.train)
    assert abs(after[0] - after[1]) < 0.02


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_thresholds_are_those_of_fairlearn(tabular: Problem, constraint: Any) -> None:
    debiased = ThresholdOptimizer(constraint=constraint).fit(tabular)
    val = tabular.val
    with quietly():
        from fairlearn.postprocessing import ThresholdOptimizer as Fairlearn

        theirs = Fairlearn(estimator=_estimator(), constraints=constraint, prefit=True, predict_method="predict")
        theirs.fit(scores(tabular, val)[:, None], val.y.numpy(), sensitive_features=val.a.numpy())
        pmf = theirs._pmf_predict(scores(tabular, val)[:, None], sensitive_features=val.a.numpy())
    torch.testing.assert_close(share_of_ones(debiased, val), torch.from_numpy(pmf[:, 1]))
    assert debiased.head is tabular.head
    assert debiased.fitted_on is None, "val selects, and no eraser was fitted on it"


def test_thresholds_bring_the_rates_together(tabular: Problem) -> None:
    before = [float((tabular.head(tabular.val.x).argmax(1) == 1)[tabular.val.a == v].double().mean()) for v in (0, 1)]
    after = rates(ThresholdOptimizer().fit(tabular), tabular.val)
    assert abs(after[0] - after[1]) < 1e-6 < 0.05 < abs(before[0] - before[1])


@pytest.mark.parametrize("cost", ["fnr", "fpr", "weighted"])
def test_scores_are_withheld_as_by_aif360(tabular: Problem, cost: Any) -> None:
    debiased, val = CalibratedEqOdds(cost=cost).fit(tabular), tabular.val
    share, base = (torch.tensor(debiased.info[name], dtype=torch.float64) for name in ("withheld", "base_rates"))
    assert sorted((share > 0).tolist()) == [False, True], "one group alone has scores withheld"
    score = torch.from_numpy(scores(tabular, val))
    assert float(base[1]) == pytest.approx(float(val.y[val.a == 1].double().mean()))
    # The cost of both groups is the same on val, in expectation over the draws: the definition, by hand.
    mean = (1 - share[val.a]) * score + share[val.a] * base[val.a]
    costs = []
    for value in (0, 1):
        group, rate = val.a == value, base[value]
        fpr, fnr = mean[group & (val.y == 0)].mean(), (1 - mean[group & (val.y == 1)]).mean()
        parts = {"fpr": fpr, "fnr": fnr, "weighted": (fpr * (1 - rate) + fnr * rate) / 2}
        costs.append(float(parts[cost]))
    assert costs[0] == pytest.approx(costs[1], abs=1e-9)
    decisions = (1 - share[val.a]) * (score > 0.5) + share[val.a] * (base[val.a] > 0.5)
    torch.testing.assert_close(share_of_ones(debiased, val), decisions)


@pytest.mark.parametrize("level", [1.0, 0.5])
def test_features_are_repaired_as_by_aif360(tabular: Problem, level: float) -> None:
    method = DisparateImpactRemover(repair_level=level)
    debiased = method.fit(tabular)
    train, (own,) = tabular.train, tabular.attribute_columns or ()
    others = torch.arange(train.x.shape[1]) != own
    repaired = debiased.represent(train.x, train.a)
    assert torch.equal(repaired[:, others], method._repaired(train)[:, others])
    assert len(repaired[:, own].unique()) == 1
    assert debiased.info["refit_converged"]
    # The hours of women and men, which differ, are one distribution after a full repair, on people of val too.
    hours = int((train.x[train.a == 1].mean(0) - train.x[train.a == 0].mean(0))[others].abs().argmax())
    column = int(others.nonzero()[hours])
    before, after = (
        abs(float(x[tabular.val.a == 1, column].mean() - x[tabular.val.a == 0, column].mean()))
        for x in (tabular.val.x, debiased.represent(tabular.val.x, tabular.val.a))
    )
    assert after < before / 2 if level == 1 else after <= before


def test_values_that_train_lacks_are_taken_for_the_nearest(tabular: Problem) -> None:
    debiased = DisparateImpactRemover().fit(tabular)
    x, a = tabular.train.x[:1].repeat(2, 1), tabular.train.a[:1].repeat(2)
    x[1] += 1e-6
    torch.testing.assert_close(debiased.represent(x, a)[0], debiased.represent(x, a)[1])
    with pytest.raises(ValueError, match="by the attribute of each sample"):
        debiased.represent(x)


def test_attribute_changes_no_draw_and_seeds_do(tabular: Problem) -> None:
    one, other = (CalibratedEqOdds().fit(replace(tabular, seed=seed)).decide for seed in (0, 1))
    assert one is not None
    assert other is not None
    pairs, pairs_cf = tabular.pairs, tabular.pairs_cf
    assert not torch.equal(pairs.x, pairs_cf.x)
    assert torch.equal(one.uniform(pairs.x), one.uniform(pairs_cf.x))
    assert not torch.equal(one.uniform(pairs.x), other.uniform(pairs.x))


@pytest.mark.parametrize("method", [ExponentiatedGradient(), ThresholdOptimizer(), CalibratedEqOdds()])
def test_methods_say_where_they_do_not_apply(method: Any, ten_classes: Problem, two_classes: Problem) -> None:
    assert "knows two classes, and these data have 10" in str(method.skip(ten_classes))
    if isinstance(method, CalibratedEqOdds):
        assert "an attribute of 2 values, and this one has 3" in str(method.skip(replace(two_classes, n_attributes=3)))
    one = two_classes.val.take(two_classes.val.y == 0)
    alone = replace(two_classes, train=one, val=one, n_attributes=2)
    with pytest.raises(NotApplicable, match=r"has samples of [01] of 2 classes in (train|val)"):
        method.fit(alone)


@pytest.mark.parametrize(
    "method", [ExponentiatedGradient, ThresholdOptimizer, CalibratedEqOdds, DisparateImpactRemover]
)
def test_methods_say_which_packages_they_need(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda module: None)
    with pytest.raises(ModuleNotFoundError, match=r"^method=\w+ needs fairlearn .*pip install 'efface\[fairness\]'"):
        method()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bound": 0}, "bound is 0, but must be a number > 0"),
        ({"constraint": "parity"}, r"constraint is 'parity', but must be demographic_parity \| equalized_odds"),
        ({"max_iter": 0}, "max_iter is 0, but must be an integer >= 1"),
    ],
)
def test_options_that_cannot_be_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExponentiatedGradient(**options)


def test_records_say_what_is_drawn_and_who_is_told_the_attribute(parts_of: Any, tmp_path: Any) -> None:
    """On digits in two colours, whose features are those of a network."""
    from efface.record import Record

    run = executed(parts_of("dataset.classes=[3,8]", "method=threshold_optimizer", "evaluation.probe=false"), tmp_path)
    record = Record.read(next(tmp_path.rglob("record.json")))
    if record.status == "not_applicable":
        assert "2 classes in val" in str(record.reason)
        return
    assert run.uses_attribute_at_test
    assert record.info["uses_attribute_at_test"] is True
    assert record.info["randomised"] is True
    assert record.info["head"] == "kept"
    assert np.isfinite(record.metrics["accuracy"])
