from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import efface
from efface.data.groups import group_accuracies
from efface.debiased import Debiased
from efface.methods.converge import Converge
from efface.methods.dfr import Dfr
from efface.methods.fmd import Fmd
from efface.methods.selection import score
from efface.problem import Features, Problem
from efface.representations import Rectified
from efface.runs import base, grid
from efface.runs.artifacts import images_of_rows


def unbiased(debiased: Debiased, problem: Problem) -> float:
    """On the counterfactual members of the pairs, together with val: a fair mixture that no default is chosen on."""
    data = problem.val + problem.pairs_cf
    correct = debiased(data.x).argmax(1) == data.y
    per_group = group_accuracies(correct, data.y, data.a, problem.n_classes, problem.n_attributes)
    return float(per_group[~per_group.isnan()].mean())


def test_it_debiases_and_tells(ten_classes: Problem) -> None:
    converged = Converge().fit(ten_classes)
    debiased = Fmd(number=250).fit(ten_classes)
    assert converged.info["converged"]
    assert debiased.info["converged"]
    assert unbiased(debiased, ten_classes) > unbiased(converged, ten_classes) + 0.1
    info = debiased.info
    assert info["certified"] is False
    assert "removes no training sample" in info["certified_reason"]
    assert len(info["tried"]) == 6
    best = max(row["val_unbiased_accuracy"] for row in info["tried"])
    assert info["chosen"]["val_unbiased_accuracy"] == best
    val = score(debiased(ten_classes.val.x), ten_classes.val, ten_classes, "unbiased_accuracy")
    assert val == pytest.approx(best, abs=0.02)  # a float32 head may tip a sample
    assert info["chosen"]["pairs"] == 250
    assert 0 < info["identified"]["biased_share"] < 1
    assert info["identified"]["counterfactual_bias"] == pytest.approx(info["influence"]["bias"], abs=2e-3)
    histogram = info["influence"]["histogram"]
    assert sum(histogram["aligned"]) + sum(histogram["conflicting"]) == len(ten_classes.train)
    assert debiased.arrays["influence"].dtype == torch.float32
    assert debiased.arrays["influence"].shape == (len(ten_classes.train),)
    assert debiased.arrays["influence"].argmax() == debiased.arrays["harmful_rows"][0]
    assert debiased.arrays["influence"].argmin() == debiased.arrays["helpful_rows"][0]


def test_candidates_are_tried_on_fewer_samples_and_the_best_is_fitted_on_all(ten_classes: Problem) -> None:
    debiased = Fmd(search=500, damping=(1e-2, 1e-4)).fit(ten_classes)
    info = debiased.info
    assert info["tried_on"] == 500
    assert len(info["tried"]) == 6
    best = max(info["tried"], key=lambda row: row["val_unbiased_accuracy"])
    assert all(info["chosen"][name] == best[name] for name in ("alpha", "damping"))
    at_once = Fmd(alpha=(best["alpha"],), damping=(best["damping"],)).fit(ten_classes)
    p, p_at_once = (found(ten_classes.val.x).softmax(1) for found in (debiased, at_once))
    torch.testing.assert_close(p, p_at_once, atol=5e-3, rtol=0)  # both stop where the gradient is 1e-6
    assert len(debiased.arrays["influence"]) == len(ten_classes.train)


def test_unlearn_refuses_more_than_the_limit(ten_classes: Problem) -> None:
    unlearned = Fmd(strategy="unlearn", steps=5).fit(ten_classes)
    limit = unlearned.info["influence"]["removal_limit"]
    assert unlearned.info["tried"][-1]["samples"] == limit
    assert unlearned.info["certified"] is False
    assert "chosen from the trained model" in unlearned.info["certified_reason"]
    with pytest.raises(ValueError, match=f"predicted bias reaches 0 after {limit} samples"):
        Fmd(strategy="unlearn", steps=5, number=limit + 1).fit(ten_classes)
    assert Fmd(strategy="unlearn", number=len(ten_classes.train)).skip(ten_classes) is not None


def test_replace_and_retrain_reach_one_minimum(two_classes: Problem) -> None:
    moved = Fmd(strategy="replace", number=100, damping=(1e-4,)).fit(two_classes)
    scratch = Fmd(strategy="replace", number=100, damping=(1e-4,), from_scratch=True).fit(two_classes)
    assert moved.info["converged"]
    assert scratch.info["converged"]
    torch.testing.assert_close(moved.head.weight, scratch.head.weight, atol=2e-3, rtol=1e-2)


@pytest.mark.parametrize("strategy", ["external", "unlearn", "replace"])
def test_the_published_step(two_classes: Problem, strategy: Any) -> None:
    one = Fmd(strategy=strategy, steps=1, number=20, damping=(1e-1, 1e-2)).fit(two_classes)
    assert one.info["steps"] == 1
    assert len(one.info["tried"]) == 2
    assert one.info["base_converged"] is False
    assert not torch.equal(one.head.weight, two_classes.head.weight)


@pytest.mark.parametrize("bias", ["demographic_parity", "equal_opportunity"])
@pytest.mark.parametrize("solver", ["cholesky", "cg"])
def test_other_biases_and_solvers(two_classes: Problem, bias: Any, solver: Any) -> None:
    debiased = Fmd(bias=bias, solver=solver, steps=3, alpha=(0.8,)).fit(two_classes)
    assert debiased.arrays["influence"].isfinite().all()
    assert debiased.info["influence"]["bias"] > 0


def test_pairs_of_different_people(two_classes: Problem) -> None:
    unflippable = replace(two_classes, flippable=False, source=None)
    for strategy in ("external", "unlearn"):
        method = Fmd(strategy=strategy, steps=3, alpha=(0.5,))  # type: ignore[arg-type]
        assert method.skip(unflippable) is None
        assert method.fit(unflippable).head.weight.isfinite().all()
    assert "no counterfactual of a training sample" in str(Fmd(strategy="replace").skip(unflippable))


def test_weights_of_the_pairs_balance_the_attribute(ten_classes: Problem, two_classes: Problem) -> None:
    assert Fmd()._alphas(two_classes) == pytest.approx((1 / 3, 1 / 2, 2 / 3))
    low, balanced, high = Fmd()._alphas(ten_classes)
    assert low < balanced < high
    # One sample in ten is then in its own colour.
    assert 1 - balanced == pytest.approx(1 / 10)


def test_a_head_without_bias(ten_classes: Problem) -> None:
    head = torch.nn.Linear(100, 10, bias=False).requires_grad_(False)
    debiased = Fmd(steps=3, alpha=(0.8,)).fit(replace(ten_classes, head=head))
    assert debiased.head.bias is None
    assert Converge(steps=3).fit(replace(ten_classes, head=head)).head.bias is None


def test_dfr_is_chosen_on_val(ten_classes: Problem) -> None:
    for members in ("both", "cf"):
        debiased = Dfr(members=members, reweigh=members == "both", l2=(1e-1, 1e-2)).fit(ten_classes)  # type: ignore[arg-type]
        scores = [row["val_unbiased_accuracy"] for row in debiased.info["tried"]]
        assert debiased.info["chosen"]["val_unbiased_accuracy"] == max(scores)
        assert debiased.fitted_on is not None
        assert len(debiased.fitted_on) == (1000 if members == "both" else 500)


def test_why_it_cannot_run(ten_classes: Problem) -> None:
    def cut(features: Features, keep: torch.Tensor) -> Features:
        return Features(features.x[keep], features.y[keep], features.a[keep])

    nothing = torch.zeros(len(ten_classes.pairs), dtype=torch.bool)
    empty = replace(ten_classes, pairs=cut(ten_classes.pairs, nothing), pairs_cf=cut(ten_classes.pairs_cf, nothing))
    for method in (Fmd(), Dfr()):
        assert method.skip(empty) == "the data set has no counterfactual pairs"
    one = torch.zeros_like(ten_classes.pairs.a)
    alone = {name: replace(getattr(ten_classes, name), a=one) for name in ("pairs", "pairs_cf")}
    assert "one value only" in str(Fmd().skip(replace(ten_classes, **alone)))
    fewer = replace(ten_classes, train=cut(ten_classes.train, ten_classes.train.y != 4))
    assert Fmd().skip(fewer) == "no training sample of classes [4]"
    with pytest.raises(ValueError, match=r"train: no sample of classes \[4\]"):
        Fmd().fit(fewer)
    different = replace(ten_classes, pairs_cf=replace(ten_classes.pairs_cf, y=ten_classes.pairs_cf.y.roll(1)))
    with pytest.raises(ValueError, match="the labels differ"):
        Fmd().fit(different)
    assert "there are 500" in str(Fmd(number=501).skip(ten_classes))
    assert "there are 500" in str(Dfr(number=501).skip(ten_classes))
    unflippable = replace(ten_classes, flippable=False)
    assert "no counterfactual" in str(Fmd(strategy="replace").skip(unflippable))
    assert Fmd(strategy="unlearn").skip(unflippable) is None
    with pytest.raises(ValueError, match="no counterfactual"):
        unflippable.counterfactual(torch.arange(3))
    assert "does not end in 5 linear layers" in str(Fmd(layers=5).skip(ten_classes))
    assert "only the head is known" in str(Fmd(layers=2).skip(replace(ten_classes, source=None)))
    with pytest.raises(TypeError, match="needs a linear head"):
        Fmd().fit(replace(ten_classes, head=torch.nn.ReLU()))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "forget"},
        {"number": 0},
        {"steps": 0},
        {"layers": 0},
        {"alpha": ()},
        {"alpha": (0.0,)},
        {"damping": (-1.0,)},
        {"select": "test_accuracy"},
        {"bias": "kindness"},
        {"solver": "qr"},
        {"from_scratch": True, "steps": 1},
    ],
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))}"):
        Fmd(**options)


def test_counterfactuals_are_drawn_once_for_each_row(ten_classes: Problem) -> None:
    some = ten_classes.counterfactual(torch.tensor([5, 2000, 7]))
    again = ten_classes.counterfactual(torch.tensor([7, 5]))
    torch.testing.assert_close(some.x[[2, 0]], again.x)
    assert torch.equal(some.y, ten_classes.train.y[[5, 2000, 7]])
    assert bool((some.a != ten_classes.train.a[[5, 2000, 7]]).all())
    assert not torch.allclose(some.x, ten_classes.train.x[[5, 2000, 7]])
    with pytest.raises(ValueError, match="must lie in 0 … 2999"):
        ten_classes.counterfactual(torch.tensor([3000]))


def test_a_cut_problem_is_the_same_model(ten_classes: Problem) -> None:
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


def test_a_run_of_two_layers_can_be_loaded(parts_of: Callable[..., grid.GridRun], tmp_path: Path) -> None:
    cheap = ["evaluation.probe=false", "evaluation.mlp_probe=false", "method.steps=2", "method.damping=[0.001]"]
    parts = replace(parts_of("method=fmd_top", *cheap), results_dir=tmp_path)
    record = base.execute(parts, say=lambda message: None)
    assert record.metrics["feature_shift"] is None
    debiased = efface.load(parts.directory)
    assert debiased.cut == 2
    spied: list[Problem] = []

    class Spy:
        uses_attribute_at_test = False

        def skip(self, problem: Problem) -> str:
            spied.append(problem.cut(2)[0])
            return "only looking"

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
