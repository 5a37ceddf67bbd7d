from dataclasses import replace

import pytest
import torch

from efface.methods.base import NotApplicable
from efface.methods.leace import Leace
from efface.methods.unaware import Unaware
from efface.problem import Problem
from efface.softmax import fit_softmax


def test_unaware_ignores_the_attribute_and_predicts_as_well(tabular: Problem) -> None:
    debiased = Unaware().fit(tabular)
    pairs, pairs_cf = tabular.pairs, tabular.pairs_cf
    assert not torch.equal(pairs.x, pairs_cf.x)
    assert torch.equal(debiased(pairs.x), debiased(pairs_cf.x))
    base, unaware = (
        (model(tabular.val.x).argmax(1) == tabular.val.y).double().mean() for model in (tabular.head, debiased)
    )
    assert unaware > base - 0.03
    assert debiased.info["dropped_columns"] == 1
    assert debiased.info["refit_converged"]


def test_unaware_head_is_that_of_a_regression_without_the_columns(tabular: Problem) -> None:
    (column,) = tabular.attribute_columns or ()
    others = torch.arange(tabular.train.x.shape[1]) != column
    scale = tabular.train.x.std(0).clamp_min(1e-6)  # one column is constant
    fit = fit_softmax((tabular.train.x / scale)[:, others], tabular.train.y, l2=1e-4)
    expected = fit.logits((tabular.val.x / scale)[:, others])
    torch.testing.assert_close(Unaware().fit(tabular)(tabular.val.x), expected.float(), atol=1e-3, rtol=1e-3)


def test_unaware_leaves_what_correlates_with_the_attribute(tabular: Problem) -> None:
    represent = Unaware().fit(tabular).represent
    fit = fit_softmax(represent(tabular.train.x), tabular.train.a, l2=1e-3)
    read = (fit.logits(represent(tabular.val.x)).argmax(1) == tabular.val.a).double().mean()
    assert read > tabular.val.a.double().mean() + 0.1


def test_unaware_says_where_it_cannot_run(tabular: Problem, ten_classes: Problem) -> None:
    assert "does not say which columns" in str(Unaware().skip(ten_classes))
    assert "use model=linear" in str(Unaware().skip(replace(tabular, features_are_inputs=False)))
    assert Unaware().skip(tabular) is None
    with pytest.raises(NotApplicable, match="does not say which columns"):
        Unaware().fit(ten_classes)
    with pytest.raises(ValueError, match=r"^l2 is 0, but must be a number > 0$"):
        Unaware(l2=0)


@pytest.mark.parametrize("fit_on", ["pairs", "train+pairs"])
def test_erasers_refuse_pairs_of_flipped_columns(tabular: Problem, ten_classes: Problem, fit_on: str) -> None:
    method = Leace(fit_on=fit_on, reweigh=False)  # type: ignore[arg-type]
    assert "use method.fit_on=train" in str(method.skip(tabular))
    assert "use method.fit_on=train" in str(method.skip(replace(tabular, features_are_inputs=False)))
    assert method.skip(ten_classes) is None
    assert Leace(fit_on="train", reweigh=False).skip(tabular) is None


def test_erasers_of_flipped_columns_would_leave_the_attribute(tabular: Problem) -> None:
    """Fitted on such pairs, an eraser takes the attribute's column alone, and a probe reads it from the others."""
    unsaid = replace(tabular, attribute_columns=None)  # so that it is not refused
    debiased = Leace(fit_on="pairs", reweigh=False).fit(unsaid)
    represent = debiased.represent
    fit = fit_softmax(represent(tabular.train.x), tabular.train.a, l2=1e-4)
    read = (fit.logits(represent(tabular.val.x)).argmax(1) == tabular.val.a).double().mean()
    assert read > tabular.val.a.double().mean() + 0.1
