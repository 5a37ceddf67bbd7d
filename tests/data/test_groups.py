import math
from typing import get_args

import numpy as np
import pytest
import torch

from efface.data.groups import (
    Rule,
    aligned,
    group_accuracies,
    group_counts,
    group_weights,
    groups,
    kamiran_calders,
    mean_over_groups,
    val_score,
    worst_group,
)

Y = torch.tensor([0, 0, 0, 1, 1, 1])
A = torch.tensor([0, 0, 1, 1, 1, 1])


def test_groups_and_counts() -> None:
    assert groups(Y, A, 3).tolist() == [0, 0, 1, 4, 4, 4]
    assert group_counts(Y, A, 2, 3).tolist() == [[2, 1, 0], [0, 3, 0]]


def test_empty_groups_have_no_accuracy() -> None:
    per_group = group_accuracies(torch.tensor([1, 0, 1, 1, 0, 0]).bool(), Y, A, 2, 2)
    np.testing.assert_allclose(per_group, [[0.5, 1.0], [np.nan, 1 / 3]])


def test_aligned_groups_occur_too_often() -> None:
    assert aligned(Y, A, 2, 2).tolist() == [[True, False], [False, True]]
    independent = torch.tensor([0, 1] * 3)
    assert not aligned(Y, independent, 2, 2)[:, :].all()


def test_kamiran_calders_make_the_attribute_independent() -> None:
    g = torch.Generator().manual_seed(0)
    y = torch.randint(3, (1000,), generator=g)
    a = (y + torch.randint(2, (1000,), generator=g)) % 3
    a[:60] = torch.arange(60) % 3
    w = kamiran_calders(y, a, 3, 3)
    assert float(w.mean()) == pytest.approx(1)
    joint = torch.zeros(3, 3, dtype=torch.float64).index_put((y, a), w, accumulate=True) / len(y)
    torch.testing.assert_close(joint, joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True))


def test_empty_group_is_named() -> None:
    with pytest.raises(ValueError, match="y=1,a=0"):
        kamiran_calders(Y, A, 2, 2)
    # A value that never occurs is no gap.
    assert kamiran_calders(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]), 2, 5).tolist() == [1, 1, 1, 1]


def test_group_weights_give_every_group_the_same() -> None:
    y, a = torch.tensor([0, 0, 0, 0, 1, 1, 1]), torch.tensor([0, 0, 0, 1, 0, 1, 1])
    weights = group_weights(y, a, 2, 2)
    np.testing.assert_allclose(torch.bincount(groups(y, a, 2), weights=weights), [7 / 4] * 4)
    with pytest.raises(ValueError, match="no weights make all groups count the same: no samples with y=1,a=0"):
        group_weights(Y, A, 2, 2)


def test_val_score_counts_groups_equally_and_leaves_empty_ones_out() -> None:
    correct = torch.tensor([1, 0, 1, 1, 0, 0]).bool()  # groups of 1/2, 1 and 1/3; the fourth is empty
    confidence = 2.0
    logits = torch.nn.functional.one_hot(torch.where(correct, Y, 1 - Y), 2) * confidence
    score = {rule: val_score(logits, Y, A, 2, 2, rule) for rule in get_args(Rule)}
    right, wrong = math.log(1 + math.exp(-confidence)), math.log(1 + math.exp(confidence))
    by_group = [(right + wrong) / 2, right, (right + 2 * wrong) / 3]
    assert score == pytest.approx(
        {
            "accuracy": 3 / 6,
            "unbiased_accuracy": (1 / 2 + 1 + 1 / 3) / 3,
            "worst_group_accuracy": 1 / 3,
            "balanced_loss": -sum(by_group) / 3,
        }
    )


def test_mean_and_worst_leave_empty_groups_out() -> None:
    per_group = torch.tensor([[[0.5, 1.0], [torch.nan, 0.25]], [[0.5, 0.25], [0.75, 1.0]]])
    torch.testing.assert_close(mean_over_groups(per_group), torch.tensor([1.75 / 3, 2.5 / 4]))
    assert worst_group(per_group).tolist() == [0.25, 0.25]


def test_labels_and_attributes_out_of_range_are_refused() -> None:
    """An attribute too large would count as one of the next label's."""
    for y, a, message in ((Y, A + 1, "a goes from 1 to 2"), (Y, A - 1, "a goes from -1"), (Y + 1, A, "y goes from 1")):
        with pytest.raises(ValueError, match=f"{message}.* but must lie in 0 … 1"):
            group_counts(y, a, 2, 2)


def test_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="rule is 'acuracy', but must be one of unbiased_accuracy, worst_group"):
        val_score(torch.zeros(6, 2), Y, A, 2, 2, "acuracy")  # type: ignore[arg-type]
