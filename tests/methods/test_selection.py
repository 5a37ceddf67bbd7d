from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

from efface.methods.selection import at_edge, best_on_val, score_on_val
from efface.problem import Problem


@dataclass
class Tried:
    searched: ClassVar[tuple[str, ...]] = ("l2",)

    l2: float
    score: float

    def facts(self) -> dict[str, Any]:
        return {"l2": self.l2}


def test_best_on_val_is_the_first_of_equals_and_all_are_recorded() -> None:
    best, facts = best_on_val(iter([Tried(1.0, 0.5), Tried(2.0, 0.7), Tried(3.0, 0.7)]), "accuracy")
    assert best.l2 == 2
    assert facts == {
        "selection": "accuracy",
        "chosen": {"l2": 2.0, "val_accuracy": 0.7},
        "at_edge": False,
        "tried": [{"l2": l2, "val_accuracy": score} for l2, score in ((1.0, 0.5), (2.0, 0.7), (3.0, 0.7))],
    }


@pytest.mark.parametrize(
    ("scores", "edge"), [((0.9, 0.1, 0.1), True), ((0.1, 0.1, 0.9), True), ((0.1, 0.9, 0.1), False), ((0.9,), False)]
)
def test_edge_of_a_grid_is_where_a_wider_one_might_do_better(scores: tuple[float, ...], edge: bool) -> None:
    # Whatever the order in which they were tried.
    for places in (range(len(scores)), reversed(range(len(scores)))):
        tried = [Tried(10.0**-place, scores[place]) for place in places]
        best, facts = best_on_val(tried, "accuracy")
        assert at_edge(best, tried) == facts["at_edge"] == edge


def test_score_on_val_is_of_val(ten_classes: Problem) -> None:
    val = ten_classes.val
    right = torch.nn.functional.one_hot(val.y, 10).double()
    assert score_on_val(right, ten_classes, "worst_group_accuracy") == 1
    assert score_on_val(right.roll(1, 1), ten_classes, "accuracy") == 0
    assert score_on_val(100 * right, ten_classes, "balanced_loss") == pytest.approx(0, abs=1e-9)
