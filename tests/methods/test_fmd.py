import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import efface
from efface.data.groups import group_accuracies
from efface.debiased import Debiased
from efface.methods.base import Method, NotApplicable
from efface.methods.converge import Converge
from efface.methods.dfr import Dfr
from efface.methods.fmd import FmdBase
from efface.methods.fmd_pairs import FmdPairs
from efface.methods.fmd_published import FmdPublishedStep
from efface.methods.fmd_samples import FmdSamples
from efface.methods.gathering import drawn_pairs
from efface.methods.retraining import part_of, standardised
from efface.methods.selection import Judge
from efface.problem import Features, Problem
from efface.representations import Rectified
from efface.runs import base, grid
from efface.runs.artifacts import images_of_rows
from efface.unlearning.influence import Influence
from efface.unlearning.objective import TrainingObjective
from efface.unlearning.path import penalty_path


def unbiased(debiased: Debiased, problem: Problem) -> float:
    """On the counterfactual members of the pairs, together with val: a fair mixture that no default is chosen on."""
    data = problem.val + problem.pairs_cf
    correct = debiased(data.x).argmax(1) == data.y
    per_group = group_accuracies(correct, data.y, data.a, problem.n_classes, problem.n_attributes)
    return float(per_group[~per_group.isnan()].mean())


def both_of(problem: Problem, number: int) -> tuple[list[int], list[int]]:
    """Labels and attributes of both members of the drawn pairs."""
    rows = drawn_pairs(problem, number)
    members = problem.pairs.take(rows) + problem.pairs_cf.take(rows)
    return members.y.tolist(), members.a.tolist()


def test_pairs_debias_and_are_recorded(ten_classes: Problem) -> None:
    further = Converge().fit(ten_classes)
    debiased = FmdPairs(number=250).fit(ten_classes)
    assert debiased.info["converged"]
    assert unbiased(debiased, ten_classes) > unbiased(further, ten_classes) + 0.1
    info = debiased.info
    assert info["certified"] is False
    assert "removes no training sample" in info["certified_reason"]
    assert [row["penalty"] for row in info["tried"]][:8] == [None, 10.0, 1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5]
    assert info["best"]["val_unbiased_accuracy"] == max(row["val_unbiased_accuracy"] for row in info["tried"])
    assert not info["unchanged"]
    val = Judge(ten_classes, "unbiased_accuracy").score(debiased(ten_classes.val.x))
    assert info["chosen"]["val_unbiased_accuracy"] == val
    assert info["pairs"] == 250
    assert len(info["empty_cells"]) == 100 - len(set(zip(*both_of(ten_classes, 250), strict=True)))
    assert 0 < info["identified"]["biased_share"] < 1
    assert info["identified"]["counterfactual_bias"] == pytest.approx(info["influence"]["bias"], abs=2e-3)
    histogram = info["influence"]["histogram"]
    assert sum(histogram["aligned"]) + sum(histogram["conflicting"]) == len(ten_classes.train)
    assert debiased.arrays["influence"].dtype == torch.float32
    assert debiased.arrays["influence"].shape == (len(ten_classes.train),)
    assert debiased.arrays["influence"].argmax() == debiased.arrays["harmful_rows"][0]
    assert debiased.arrays["influence"].argmin() == debiased.arrays["helpful_rows"][0]


def test_unlearn_refuses_more_than_the_limit(ten_classes: Problem) -> None:
    path: dict[str, Any] = {"penalties": (1.0, 1e-2), "steps": 5}
    unlearned = FmdSamples(strategy="unlearn", **path).fit(ten_classes)
    limit = unlearned.info["influence"]["removal_limit"]
    assert unlearned.info["tried"][-1]["samples"] == limit
    assert unlearned.info["certified"] is False
    assert "chosen by the trained model" in unlearned.info["certified_reason"]
    with pytest.raises(ValueError, match=f"predicted bias reaches 0 after {limit} samples"):
        FmdSamples(strategy="unlearn", number=limit + 1, **path).fit(ten_classes)
    assert FmdSamples(strategy="unlearn", number=len(ten_classes.train)).skip(ten_classes) is not None


def test_replace_and_retrain_reach_the_same_minima(two_classes: Problem) -> None:
    moved, scratch = (
        FmdSamples(
            strategy="replace", number=100, penalties=(1e-2,), select="balanced_loss", from_scratch=from_scratch
        ).fit(two_classes)
        for from_scratch in (False, True)
    )
    assert moved.info["converged"]
    assert scratch.info["converged"]
    assert scratch.info["steps"] > moved.info["steps"], "from scratch it is further"
    assert scratch.info["steps_total"] == scratch.info["steps"]
    torch.testing.assert_close(moved(two_classes.val.x), scratch(two_classes.val.x), atol=2e-2, rtol=0)


def test_minima_of_the_default_path_are_the_same_from_scratch(two_classes: Problem) -> None:
    part = standardised(part_of(two_classes, 1))
    objective = TrainingObjective(x=part.train.x, y=part.train.y)
    warm, cold = (
        [
            part.trainable.logits(point.minimum.theta, part.scaled(two_classes.val).x)
            for point in penalty_path(part.trainable, objective, part.theta, from_scratch=from_scratch)
            if point.multiple >= 1e-5
        ]
        for from_scratch in (False, True)
    )
    assert len(warm) == 7
    for one, other in zip(warm, cold, strict=True):
        torch.testing.assert_close(one, other, atol=5e-2, rtol=0)


def test_no_harmful_sample_leaves_the_model(two_classes: Problem) -> None:
    blank = torch.nn.Linear(100, 2).requires_grad_(False)
    blank.weight.zero_()
    blank.bias.copy_(torch.tensor([60.0, -60.0]))  # sure of one class, whoever it sees: no sample changes anything
    for number in (None, 5):
        unlearned = FmdSamples(strategy="unlearn", number=number).fit(replace(two_classes, head=blank))
        assert unlearned.info["unchanged"]
        assert "no training sample raises it" in unlearned.info["unchanged_reason"]
        torch.testing.assert_close(unlearned.head.bias, blank.bias)


def test_number_that_takes_the_last_sample_of_a_class_is_refused(two_classes: Problem) -> None:
    part = part_of(two_classes, 1)
    y = part.train.y
    first_class_first = Influence(bias=9.0, values=1.0 + (y == 0).double(), weight=torch.full((len(y),), 1 / len(y)))
    most = int((y == 0).sum()) - 1
    assert FmdSamples(number=most)._numbers(first_class_first, part) == [most]
    assert FmdSamples()._numbers(first_class_first, part)[-1] == most
    with pytest.raises(ValueError, match=f"^number is {most + 1}, but a class would lose its last sample after {most}"):
        FmdSamples(number=most + 1)._numbers(first_class_first, part)


@pytest.mark.parametrize("strategy", ["external", "unlearn", "replace"])
def test_published_step_moves_the_model_once(two_classes: Problem, strategy: Any) -> None:
    stepped = FmdPublishedStep(strategy=strategy, number=20, damping=1e-2).fit(two_classes)
    info = stepped.info
    assert info["strategy"] == strategy
    assert info["steps"] == 1
    assert info["grad_norm"] is None, "nothing was minimised"
    assert info["converged"] is None
    assert info["edit"]["samples" if strategy != "external" else "pairs"] == 20
    assert not torch.equal(stepped.head.weight, two_classes.head.weight)
    further = FmdPublishedStep(strategy=strategy, number=20, damping=1e-3).fit(two_classes)
    moved, moved_further = (one.head.weight - two_classes.head.weight for one in (stepped, further))
    assert float(moved_further.norm()) > float(moved.norm()), "less damping, a longer step"


def test_published_step_of_all_harmful_samples(two_classes: Problem) -> None:
    everything = FmdPublishedStep(strategy="unlearn").fit(two_classes).info
    limit = everything["influence"]["removal_limit"]
    assert everything["edit"]["samples"] == limit
    assert FmdPublishedStep().fit(two_classes).info["edit"]["pairs"] == len(two_classes.pairs)
    with pytest.raises(ValueError, match=f"predicted bias reaches 0 after {limit} samples"):
        FmdPublishedStep(strategy="unlearn", number=limit + 1).fit(two_classes)


def test_published_step_of_two_layers(two_classes: Problem) -> None:
    stepped = FmdPublishedStep(layers=2, number=20).fit(two_classes)
    assert stepped.cut == 2
    earlier, layers = two_classes.cut(2)
    assert not torch.allclose(stepped(earlier.val.x), layers(earlier.val.x), atol=1e-4)
    assert not torch.equal(stepped.head.weight, two_classes.head.weight)


@pytest.mark.parametrize("bias", ["signed_counterfactual", "demographic_parity", "equal_opportunity"])
@pytest.mark.parametrize("solver", ["cholesky", "cg"])
def test_other_biases_and_solvers(two_classes: Problem, bias: Any, solver: Any) -> None:
    debiased = FmdPairs(bias=bias, solver=solver, penalties=(1e-2,), steps=3).fit(two_classes)
    assert debiased.arrays["influence"].isfinite().all()
    if bias == "signed_counterfactual":
        assert debiased.info["influence"]["bias"] == pytest.approx(debiased.info["identified"]["signed"], abs=1e-6)
    else:
        assert debiased.info["influence"]["bias"] > 0


def test_fmd_of_pairs_of_different_people(two_classes: Problem) -> None:
    unflippable = replace(two_classes, flippable=False, source=None)
    for method in (FmdPairs(penalties=(1e-2,)), FmdSamples(penalties=(1e-2,)), FmdPublishedStep()):
        assert method.skip(unflippable) is None
        assert method.fit(unflippable).head.weight.isfinite().all()
    for replacing in (FmdSamples(strategy="replace"), FmdPublishedStep(strategy="replace")):
        assert "no counterfactual of a training sample" in str(replacing.skip(unflippable))


def test_head_without_bias_stays_without(ten_classes: Problem) -> None:
    head = torch.nn.Linear(100, 10, bias=False).requires_grad_(False)
    for method in (FmdPairs(penalties=(1e-2,)), Converge(penalties=(1e-2,))):
        debiased = method.fit(replace(ten_classes, head=head))
        assert debiased.head.bias is None
        assert not debiased.info["unchanged"]


def test_dfr_is_chosen_on_val(ten_classes: Problem) -> None:
    for members in ("both", "cf"):
        debiased = Dfr(members=members, reweigh=members == "both", l2=(1e-1, 1e-2)).fit(ten_classes)  # type: ignore[arg-type]
        scores = [row["val_unbiased_accuracy"] for row in debiased.info["tried"]]
        assert debiased.info["chosen"]["val_unbiased_accuracy"] == max(scores)
        assert debiased.info["at_edge"]  # of two
        assert debiased.fitted_on is not None
        assert len(debiased.fitted_on) == (1000 if members == "both" else 500)


def test_dfr_reaches_the_minimum_of_each_penalty_whatever_their_order(ten_classes: Problem) -> None:
    both = Dfr(l2=(1e-3, 1e-1)).fit(ten_classes)
    assert [row["l2"] for row in both.info["tried"]] == [1e-1, 1e-3]
    assert all(row["converged"] for row in both.info["tried"])
    alone = Dfr(l2=(both.info["chosen"]["l2"],)).fit(ten_classes)
    assert not alone.info["at_edge"]
    torch.testing.assert_close(both(ten_classes.val.x), alone(ten_classes.val.x), rtol=1e-3, atol=1e-3)


def test_methods_say_why_they_cannot_run(ten_classes: Problem) -> None:
    none = slice(0)
    empty = replace(ten_classes, pairs=ten_classes.pairs.take(none), pairs_cf=ten_classes.pairs_cf.take(none))
    for method in (FmdPairs(), FmdSamples(), FmdPublishedStep(), Dfr()):
        assert method.skip(empty) == "the data set has no counterfactual pairs"
    one = torch.zeros_like(ten_classes.pairs.a)
    alone = {name: replace(getattr(ten_classes, name), a=one) for name in ("pairs", "pairs_cf")}
    assert "one value only" in str(FmdPairs().skip(replace(ten_classes, **alone)))
    fewer = replace(ten_classes, train=ten_classes.train.take(ten_classes.train.y != 4))
    assert FmdPairs().skip(fewer) == "no sample of classes [4] in train"
    with pytest.raises(NotApplicable, match=r"^no sample of classes \[4\] in train$"):
        FmdPairs().fit(fewer)
    different = replace(ten_classes, pairs_cf=replace(ten_classes.pairs_cf, y=ten_classes.pairs_cf.y.roll(1)))
    with pytest.raises(ValueError, match="the labels differ"):
        FmdPairs().fit(different)
    for pairs in (FmdPairs(number=501), FmdPublishedStep(number=501)):
        assert "there are 500" in str(pairs.skip(ten_classes))
    assert "there are 500" in str(Dfr(number=501).skip(ten_classes))
    unflippable = replace(ten_classes, flippable=False)
    assert "no counterfactual" in str(FmdSamples(strategy="replace").skip(unflippable))
    assert FmdSamples(strategy="unlearn").skip(unflippable) is None
    with pytest.raises(ValueError, match="no counterfactual"):
        unflippable.counterfactual(torch.arange(3))
    assert "does not end in 5 linear layers" in str(FmdPairs(layers=5).skip(ten_classes))
    assert "only the head is known" in str(FmdPairs(layers=2).skip(replace(ten_classes, source=None)))
    with pytest.raises(TypeError, match="needs a linear head"):
        FmdPairs().fit(replace(ten_classes, head=torch.nn.ReLU()))  # type: ignore[arg-type]


NUMBERS = "a list of numbers > 0"


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (FmdSamples, {"strategy": "external"}, "strategy is 'external', but must be unlearn | replace"),
        (FmdPublishedStep, {"strategy": "f"}, "strategy is 'f', but must be external | unlearn | replace"),
        (FmdPairs, {"number": 0}, "number is 0, but must be an integer >= 1 or null"),
        (FmdPairs, {"matching": "far"}, "matching is 'far', but must be given | nearest"),
        (FmdPairs, {"steps": 0}, "steps is 0, but must be an integer >= 1"),
        (FmdPairs, {"layers": 0}, "layers is 0, but must be an integer >= 1"),
        (FmdPairs, {"alpha": ()}, f"alpha is (), but must be {NUMBERS} and <= 1 with one entry or more"),
        (FmdPairs, {"alpha": (0.0,)}, f"alpha is (0.0,), but must be {NUMBERS} and <= 1 with one entry or more"),
        (FmdPairs, {"penalties": (-1.0,)}, f"penalties is (-1.0,), but must be {NUMBERS} with one entry or more"),
        (FmdPublishedStep, {"damping": (0.1,)}, "damping is (0.1,), but must be a number > 0"),
        (FmdPairs, {"delta": 5}, "delta is 5, but must be a number >= 0 and <= 1"),
        (FmdPairs, {"select": "test_accuracy"}, "select is 'test_accuracy', but must be unbiased_accuracy | "),
        (FmdPairs, {"bias": "kindness"}, "bias is 'kindness', but must be counterfactual | signed_counterfactual | "),
        (FmdPairs, {"solver": "qr"}, "solver is 'qr', but must be auto | cholesky | cg"),
        (FmdPairs, {"solver": "lissa"}, "solver is 'lissa', but must be auto | cholesky | cg"),
        (FmdPairs, {"steps": 1}, "steps is 1: the published single Newton step is FmdPublishedStep"),
        (FmdSamples, {"from_scratch": True, "steps": 1}, "steps is 1: the published"),
        (FmdSamples, {"from_scratch": True, "layers": 2}, "from_scratch is True, but layers=2"),
        (FmdPairs, {"solver": "cholesky", "layers": 2}, "solver is 'cholesky', but layers=2 are solved by conjugate"),
        (FmdPublishedStep, {"solver": "cg", "layers": 2}, "solver is 'cg', but layers=2 are solved by conjugate"),
    ],
)
def test_bad_options(method: type, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        method(**options)


STRATEGIES: tuple[type[FmdBase], ...] = (FmdPairs, FmdSamples, FmdPublishedStep)


@pytest.mark.parametrize("name", sorted(FmdBase.elsewhere))
def test_options_of_another_strategy_are_answered_by_where_they_are(name: str) -> None:
    where = FmdBase.elsewhere[name]
    having = {cls for cls in STRATEGIES if name in {field.name for field in fields(cls)}}
    assert having == {cls for cls in STRATEGIES if cls.__name__ in where}
    for cls in set(STRATEGIES) - having:
        with pytest.raises(TypeError, match=f"^{re.escape(f'{cls.__name__} has no option {name}: {where}')}$"):
            cls(**{name: 1})


def test_counterfactuals_are_drawn_once_for_each_row(ten_classes: Problem) -> None:
    some = ten_classes.counterfactual(torch.tensor([5, 2000, 7]))
    again = ten_classes.counterfactual(torch.tensor([7, 5]))
    torch.testing.assert_close(some.x[[2, 0]], again.x)
    assert torch.equal(some.y, ten_classes.train.y[[5, 2000, 7]])
    assert bool((some.a != ten_classes.train.a[[5, 2000, 7]]).all())
    assert not torch.allclose(some.x, ten_classes.train.x[[5, 2000, 7]])
    with pytest.raises(ValueError, match="must lie in 0 … 2999"):
        ten_classes.counterfactual(torch.tensor([3000]))


def test_cut_problem_is_the_same_model(ten_classes: Problem) -> None:
    earlier, layers = ten_classes.cut(2)
    assert [type(layer).__name__ for layer in layers] == ["Linear", "ReLU", "Linear"]
    logits = ten_classes.head(ten_classes.val.x)
    torch.testing.assert_close(layers(earlier.val.x), logits, atol=1e-4, rtol=1e-4)
    rows = torch.arange(5)
    flipped = ten_classes.head(ten_classes.counterfactual(rows).x)
    torch.testing.assert_close(layers(earlier.counterfactual(rows).x), flipped, atol=1e-4, rtol=1e-4)
    assert ten_classes.cut(1)[0] is ten_classes
    weights = {"weight_0": layers[0].weight, "bias_0": layers[0].bias}
    torch.testing.assert_close(Rectified(**weights)(earlier.val.x), ten_classes.val.x)
    assert not hasattr(ten_classes, "test")


def test_run_of_two_layers_can_be_loaded(parts_of: Callable[..., grid.GridRun], tmp_path: Path) -> None:
    cheap = ["evaluation.probe=false", "evaluation.mlp_probe=false", "method.steps=2", "method.penalties=[0.001]"]
    parts = replace(parts_of("method=fmd_top", *cheap), results_dir=tmp_path)
    record = base.execute(parts, say=lambda message: None)
    assert record.metrics["feature_shift"] is None
    debiased = efface.load(parts.directory)
    assert debiased.cut == 2
    spied: list[Problem] = []

    class Spy(Method):
        def training_data(self, problem: Problem) -> Features:
            spied.append(problem.cut(2)[0])
            raise NotApplicable("only looking")

        def fit(self, problem: Problem) -> Debiased:
            raise AssertionError("skipped")

    base.execute(replace(parts, method=Spy(), overwrite=True, results_dir=tmp_path / "spy"), say=lambda message: None)
    val = spied[0].val
    assert float((debiased(val.x).argmax(1) == val.y).double().mean()) == pytest.approx(record.val_metrics["accuracy"])
    arrays = load_file(parts.directory / "arrays.safetensors")
    assert arrays["harmful_images"].shape == (24, 28, 28, 3)
    assert arrays["harmful_images"].dtype == torch.uint8
    assert arrays["helpful_images"].float().std() > 10


def test_images_of_rows(mini: Any) -> None:
    images = images_of_rows(mini, {"harmful_rows": torch.tensor([4, 2]), "influence": torch.zeros(3)})
    assert set(images) == {"harmful_images"}
    expected = (mini.train.inputs(torch.tensor([4, 2])) * 255).round().to(torch.uint8)
    assert torch.equal(images["harmful_images"].permute(0, 3, 1, 2), expected)
    assert images_of_rows(replace(mini, input_shape=(2352,)), {"harmful_rows": torch.tensor([0])}) == {}
