from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from efface.methods.candidates import Edit, PathCandidate
from efface.methods.retraining import part_of, standardised
from efface.methods.selection import Judge, at_edge, best_on_val
from efface.problem import Problem
from efface.unlearning.objective import TrainingObjective
from efface.unlearning.path import MULTIPLES, penalty_path


@dataclass
class Tried:
    searched: ClassVar[tuple[str, ...]] = ("l2",)

    l2: float
    logits: Tensor

    def facts(self) -> dict[str, Any]:
        return {"l2": self.l2}


def right_in(problem: Problem, number: int) -> Tensor:
    """Logits that are right in the first `number` samples of val."""
    y = problem.val.y
    label = torch.where(torch.arange(len(y)) < number, y, (y + 1) % problem.n_classes)
    return torch.nn.functional.one_hot(label, problem.n_classes).double()


def test_best_on_val_is_the_first_of_equals_and_all_are_recorded(ten_classes: Problem) -> None:
    n = len(ten_classes.val)
    hits = {1.0: n // 2, 2.0: n - 50, 3.0: n - 50}
    tried = (Tried(l2, right_in(ten_classes, number)) for l2, number in hits.items())
    best, facts = best_on_val(tried, ten_classes, "accuracy")
    assert best.l2 == 2
    assert facts == {
        "selection": "accuracy",
        "chosen": {"l2": 2.0, "val_accuracy": (n - 50) / n},
        "at_edge": False,
        "tried": [{"l2": l2, "val_accuracy": number / n} for l2, number in hits.items()],
    }


@pytest.mark.parametrize(
    ("hits", "edge"), [((90, 10, 10), True), ((10, 10, 90), True), ((10, 90, 10), False), ((90,), False)]
)
def test_edge_of_a_grid_is_where_a_wider_one_might_do_better(
    ten_classes: Problem, hits: tuple[int, ...], edge: bool
) -> None:
    # Whatever the order in which they were tried.
    for places in (range(len(hits)), reversed(range(len(hits)))):
        tried = [Tried(10.0**-place, right_in(ten_classes, hits[place])) for place in places]
        best, facts = best_on_val(tried, ten_classes, "accuracy")
        assert at_edge(best, tried) == facts["at_edge"] == edge


def test_score_on_val_is_of_val(ten_classes: Problem) -> None:
    val = ten_classes.val
    right = torch.nn.functional.one_hot(val.y, 10).double()
    assert Judge(ten_classes, "worst_group_accuracy").score(right) == 1
    assert Judge(ten_classes, "accuracy").score(right.roll(1, 1)) == 0
    assert Judge(ten_classes, "balanced_loss").score(100 * right) == pytest.approx(0, abs=1e-9)


def test_edge_of_a_path_is_only_where_it_was_cut_short(two_classes: Problem) -> None:
    part = standardised(part_of(two_classes, 1))
    objective = TrainingObjective(x=part.train.x, y=part.train.y)

    def edges(penalties: tuple[float, ...], edit: Edit) -> list[bool]:
        points = penalty_path(part.trainable, objective, part.theta, penalties)
        tried = [PathCandidate(part=part), *(PathCandidate(part=part, point=point, edit=edit) for point in points)]
        return [at_edge(one, tried) for one in tried]

    samples = Edit(objective, {"samples": 10, "predicted_change": -0.1})
    assert edges((1.0, 1e-1, 1e-2), samples) == [False, False, False, True]
    assert not any(edges((*MULTIPLES, 1e-9, 1e-11), samples)), "it converges before the last one"


def test_edge_of_the_weight_of_the_pairs(two_classes: Problem) -> None:
    part = standardised(part_of(two_classes, 1))
    objective = TrainingObjective(x=part.train.x, y=part.train.y)
    (point,) = penalty_path(part.trainable, objective, part.theta, (1.0,))
    for name, edge in (("alpha", [True, False, True]), ("samples", [False] * 3)):
        searched = (name,) if name == "alpha" else ()
        edits = [Edit(objective, {name: value}, searched=searched) for value in (0.5, 0.8, 0.9)]
        tried = [PathCandidate(part=part, point=point, edit=edit) for edit in edits]
        assert [at_edge(one, tried) for one in tried] == edge
