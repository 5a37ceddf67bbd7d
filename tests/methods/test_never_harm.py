"""No method of a regularisation path is below the model as it was trained, on val and by its own rule."""

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from efface.data.groups import Rule, val_score
from efface.methods.converge import Converge
from efface.methods.fmd_pairs import FmdPairs
from efface.methods.fmd_samples import FmdSamples
from efface.methods.path import PathMethod
from efface.methods.retraining import part_of, standardised
from efface.methods.selection import Judge, closest_on_val
from efface.problem import Features, Problem

RULES: tuple[Rule, ...] = ("unbiased_accuracy", "worst_group_accuracy", "accuracy", "balanced_loss")


@dataclass(frozen=True)
class Flipped:
    """Other attributes of the training samples."""

    flipped: Features

    def flip(self, rows: Tensor, cut: int) -> Features:
        return self.flipped.take(rows)

    def problem(self, cut: int) -> Problem:
        raise ValueError("one layer")

    def layers(self, cut: int) -> nn.Sequential:
        raise ValueError("one layer")


def random_problem(seed: int) -> Problem:
    """Features that lean on the attribute, in all units, with a constant one; few or many samples; any head."""
    g = torch.Generator().manual_seed(seed)

    def draw(values: list[Any]) -> Any:
        return values[int(torch.randint(len(values), (1,), generator=g))]

    k, attributes, d, n = draw([2, 3]), draw([2, 3]), draw([3, 40]), draw([25, 300])
    scale, shift = 10.0 ** (3 * torch.randn(d, generator=g)), draw([0.0, 30.0])
    directions = torch.randn(2, max(k, attributes), d, generator=g)

    def features(m: int, y: Tensor, a: Tensor, noise: Tensor) -> Features:
        x = (directions[0, y] + 2 * directions[1, a] + noise + shift) * scale
        x[:, 0] = 5.0
        return Features(x, y, a, cluster=torch.arange(m) // 3 if clustered else None)

    def split(m: int, bias: float) -> tuple[Features, Features]:
        y = torch.arange(m) % k
        own = torch.rand(m, generator=g) < bias
        a = torch.where(own, y % attributes, torch.randint(attributes, (m,), generator=g))
        noise = 1.5 * torch.randn(m, d, generator=g)
        other = (a + 1 + torch.randint(attributes - 1, (m,), generator=g)) % attributes
        return features(m, y, a, noise), features(m, y, other, noise)

    clustered = draw([False, True])
    (train, flipped), (val, _), (pairs, pairs_cf) = split(n, 0.9), split(60, 0.9), split(30, draw([0.5, 1.0]))
    head = nn.Linear(d, k, bias=draw([True, True, False])).requires_grad_(False)
    head.weight.copy_(draw([0.1, 3.0, 30.0]) * torch.randn(k, d, generator=g) / scale / d**0.5)
    if head.bias is not None:
        head.bias.copy_(torch.randn(k, generator=g))
    return Problem(
        train=train,
        val=val,
        pairs=pairs,
        pairs_cf=pairs_cf,
        head=head,
        n_classes=k,
        n_attributes=attributes,
        flippable=True,
        seed=seed,
        device="cpu",
        source=Flipped(flipped),
    )


@pytest.mark.parametrize("seed", [*range(10), *(pytest.param(i, marks=pytest.mark.slow) for i in range(10, 60))])
def test_no_method_is_below_the_model_on_val(seed: int) -> None:
    problem = random_problem(seed)
    options: dict[str, Any] = {"select": RULES[seed % 4], "steps": 10}
    methods: tuple[PathMethod, ...] = (
        FmdPairs(alpha=(0.5, 0.9), **options),
        FmdSamples(strategy="unlearn", **options),
        FmdSamples(strategy="replace", **options),
        FmdSamples(strategy="replace", from_scratch=True, **options),
        Converge(**options),
    )
    val = problem.val

    def score(logits: Tensor, rule: Rule) -> float:
        return val_score(logits, val.y, val.a, problem.n_classes, problem.n_attributes, rule)

    for method in methods:
        debiased = method.fit(problem)
        rule = debiased.info["selection"]
        before, after = score(problem.head(val.x), rule), score(debiased(val.x), rule)
        assert after >= before
        assert debiased.info["chosen"][f"val_{rule}"] == after
        assert math.isfinite(debiased.info["gain_error"])
        if debiased.info["unchanged"]:
            assert torch.equal(debiased(val.x), problem.head(val.x)), "unchanged to the last digit"
            assert debiased.info["gain"] <= debiased.info["gain_error"]


@pytest.mark.parametrize("rule", RULES)
def test_two_layers_are_not_below_the_model_on_val(two_classes: Problem, rule: Rule) -> None:
    earlier, val = two_classes.cut(2)[0].val, two_classes.val

    def score(logits: Tensor) -> float:
        return val_score(logits, val.y, val.a, 2, two_classes.n_attributes, rule)

    debiased = FmdPairs(layers=2, steps=2, select=rule, penalties=(1.0, 1e-2)).fit(two_classes)
    assert debiased.cut == 2
    before, after = score(two_classes.head(val.x)), score(debiased(earlier.x))
    assert after >= before or after == pytest.approx(before, abs=1e-6), "the same model, cut elsewhere"


@pytest.mark.parametrize("bias", [True, False])
def test_units_of_the_features_do_not_matter(two_classes: Problem, bias: bool) -> None:
    g = torch.Generator().manual_seed(0)
    factor = 10 ** torch.randn(100, generator=g, dtype=torch.float64)
    offset = 3 * torch.randn(100, generator=g, dtype=torch.float64) * bias  # no intercept can make up for one

    def converted(data: Features) -> Features:
        return replace(data, x=(data.x.double() * factor + offset).float())

    weight = two_classes.head.weight.double()
    plain, other = (nn.Linear(100, 2, bias=bias).requires_grad_(False) for _ in range(2))
    plain.weight.copy_(weight)
    other.weight.copy_(weight / factor)
    if bias:
        plain.bias.copy_(two_classes.head.bias)
        other.bias.copy_(two_classes.head.bias.double() - (weight / factor) @ offset)
    parts = {name: converted(getattr(two_classes, name)) for name in ("train", "val", "pairs", "pairs_cf")}
    method = FmdPairs(penalties=(1e-2,), select="balanced_loss")
    ours, theirs = method.fit(replace(two_classes, head=plain)), method.fit(replace(two_classes, head=other, **parts))
    assert not ours.info["unchanged"]
    assert ours.info["chosen"]["l2"] == pytest.approx(theirs.info["chosen"]["l2"], rel=1e-4)
    torch.testing.assert_close(ours(two_classes.val.x), theirs(parts["val"].x), atol=5e-2, rtol=0)


def test_standardised_part_is_the_same_model(ten_classes: Problem) -> None:
    for layers in (1, 2):
        raw = part_of(ten_classes, layers)
        part = standardised(raw)
        logits = raw.trainable.logits(raw.theta, raw.problem.val.x)
        torch.testing.assert_close(
            part.trainable.logits(part.theta, part.scaled(part.problem.val).x), logits, atol=1e-3, rtol=1e-3
        )
        assert torch.equal(part.model(part.theta)(part.problem.val.x), raw.model(raw.theta)(raw.problem.val.x))
        g = torch.Generator().manual_seed(0)
        theta = part.theta + 0.1 * torch.randn(part.theta.shape, generator=g).to(part.theta)
        expected = part.trainable.logits(theta, part.scaled(part.problem.val).x)
        torch.testing.assert_close(part.model(theta)(part.problem.val.x), expected.float(), atol=1e-2, rtol=1e-3)
        x = torch.cat([part.train.x, part.pairs.x, part.pairs_cf.x]).double()
        active = x.std(0) > 0
        torch.testing.assert_close(x.mean(0), torch.zeros(len(active), dtype=torch.float64), atol=1e-4, rtol=0)
        torch.testing.assert_close(x.std(0, correction=0)[active], torch.ones(int(active.sum()), dtype=torch.float64))


@dataclass(frozen=True)
class Step:
    """A candidate at some closeness, whose predictions are those of another, with the first few wrong."""

    closeness: float
    logits: Tensor
    searched: tuple[str, ...] = ("closeness",)

    def facts(self) -> dict[str, Any]:
        return {"closeness": self.closeness if math.isfinite(self.closeness) else None}


def steps(problem: Problem, wrong: list[range]) -> list[Step]:
    """Candidates ever further from the first, which err in these samples of val."""
    made = []
    for i, rows in enumerate(wrong):
        label = problem.val.y.clone()
        label[list(rows)] = (label[list(rows)] + 1) % problem.n_classes
        closeness = torch.inf if i == 0 else 10.0**-i
        made.append(Step(closeness, nn.functional.one_hot(label, problem.n_classes).double()))
    return made


def test_closest_within_one_standard_error_is_chosen(two_classes: Problem) -> None:
    problem = replace(two_classes, val=replace(two_classes.val, a=two_classes.val.y))
    clear = steps(problem, [range(40), range(20), range(6), range(30, 35), range(12)])
    chosen, facts = closest_on_val(clear, problem, "accuracy")
    assert facts["best"]["closeness"] == 1e-3
    assert chosen.closeness == 1e-2, "one more error, where they are other errors, is noise"
    assert not facts["unchanged"]
    assert not facts["at_edge"]
    noise = steps(problem, [range(6), range(30, 35), range(20)])
    chosen, facts = closest_on_val(noise, problem, "accuracy")
    assert facts["unchanged"]
    assert facts["gain"] > 0
    worse = steps(problem, [range(0), range(5), range(1)])
    assert closest_on_val(worse, problem, "accuracy")[1]["unchanged"]
    # Within the error of the best, but below the model as it was trained.
    below = steps(problem, [range(6), range(30, 37), range(40, 45)])
    assert closest_on_val(below, problem, "accuracy")[1]["unchanged"]


def test_standard_error_is_that_of_the_difference(two_classes: Problem) -> None:
    val = replace(two_classes.val, a=two_classes.val.y)
    problem = replace(two_classes, val=val)
    tried = [one.logits for one in steps(problem, [range(30), range(0)])]
    error = float(Judge(problem, "unbiased_accuracy").errors(tried, 1, within_groups=True)[0])
    per_class = [(tried[0].argmax(1) != val.y)[val.y == c].double() for c in (0, 1)]
    exact = math.sqrt(sum(float(w.var(correction=0)) / len(w) for w in per_class)) / 2
    assert error == pytest.approx(exact, rel=0.15)
    assert Judge(problem, "unbiased_accuracy").errors(tried, 1, within_groups=True)[1] == 0
    people = replace(problem, val=replace(val, cluster=torch.arange(len(val)) // 15))
    assert float(Judge(people, "unbiased_accuracy").errors(tried, 1, within_groups=True)[0]) > 1.5 * error, (
        "errors come by person"
    )


def two_models(problem: Problem, val: Features, right: tuple[Tensor, Tensor]) -> tuple[Problem, list[Tensor]]:
    """The problem with that val, and logits of two models that are right in these samples `[n]`."""
    k = problem.n_classes
    logits = [nn.functional.one_hot(torch.where(where, val.y, (val.y + 1) % k), k).double() for where in right]
    return replace(problem, val=val), logits


def test_standard_error_over_val_sees_groups_of_one_sample(ten_classes: Problem) -> None:
    differences, within, over_val = [], [], []
    for seed in range(20):
        g = torch.Generator().manual_seed(seed)
        y = torch.arange(5000) % 10
        conflicting = torch.rand(5000, generator=g) > 0.995
        a = torch.where(conflicting, (y + torch.randint(1, 10, (5000,), generator=g)) % 10, y)
        one, other = (~conflicting | (torch.rand(5000, generator=g) < share) for share in (0.5, 0.55))
        problem, logits = two_models(ten_classes, Features(torch.zeros(5000, 1), y, a), (one, other))
        judge = Judge(problem, "unbiased_accuracy")
        differences.append(judge.score(logits[1]) - judge.score(logits[0]))
        if seed < 5:
            within.append(float(judge.errors(logits, 1, within_groups=True)[0]))
            over_val.append(float(judge.errors(logits, 1, within_groups=False)[0]))
    true = float(torch.tensor(differences).std())
    assert max(within) < 0.4 * true
    assert all(0.4 * true < error < true for error in over_val)


@pytest.mark.parametrize(("rule", "loss"), [("worst_group_accuracy", 1.0), ("unbiased_accuracy", 1 / 4)])
def test_standard_error_where_a_group_is_missing_from_resamples(two_classes: Problem, rule: Rule, loss: float) -> None:
    rows = torch.arange(200)
    y = rows % 2
    a = torch.where((y == 0) & (rows < 100), 1, y)
    a[199] = 0  # the only sample with label 1 and attribute 0
    right = torch.ones(200, dtype=torch.bool)
    problem, logits = two_models(two_classes, Features(torch.zeros(200, 1), y, a), (rows != 199, right))
    judge = Judge(problem, rule)
    # The scores differ, by about `loss`, where the sample is drawn, with probability 1 − 1/e.
    drawn = 1 - math.exp(-1)
    expected = loss * math.sqrt(drawn * (1 - drawn))
    assert float(judge.errors(logits, 1, within_groups=False)[0]) == pytest.approx(expected, rel=0.1)
    assert float(judge.errors(logits, 1, within_groups=True)[0]) == 0


def test_gain_that_is_less_than_its_error_over_val_moves_nothing(ten_classes: Problem) -> None:
    rows = torch.arange(200)
    y = rows % 10
    a = y.clone()
    a[-6:] = (y[-6:] + 1) % 10  # six groups of one sample
    val = Features(torch.zeros(200, 1), y, a)
    # Right in three of them, against two others.
    problem, logits = two_models(ten_classes, val, (~torch.isin(rows, rows[-3:]), ~torch.isin(rows, rows[-6:-4])))
    tried = [Step(torch.inf, logits[0]), Step(0.1, logits[1])]
    _, facts = closest_on_val(tried, problem, "unbiased_accuracy")
    assert facts["gain"] == pytest.approx(1 / 16)
    assert facts["unchanged"]
    assert float(Judge(problem, "unbiased_accuracy").errors(logits, 1, within_groups=True)[0]) == 0


def test_one_person_is_drawn_by_photograph(two_classes: Problem) -> None:
    logits = [one.logits for one in steps(two_classes, [range(30), range(0)])]
    alone = replace(two_classes, val=replace(two_classes.val, cluster=torch.zeros_like(two_classes.val.y)))
    errors = [Judge(one, "accuracy").errors(logits, 1, within_groups=False) for one in (alone, two_classes)]
    assert float(errors[0][0]) > 0
    assert torch.equal(*errors)


def test_selection_names_the_rule_that_one_attribute_value_leaves(two_classes: Problem) -> None:
    alone = replace(two_classes, val=replace(two_classes.val, a=torch.zeros_like(two_classes.val.a)))
    for rule in ("unbiased_accuracy", "worst_group_accuracy", "balanced_loss"):
        info = FmdPairs(select=rule, penalties=(1e-2,)).fit(alone).info  # type: ignore[arg-type]
        assert info["selection"] == "accuracy"
        assert "val_accuracy" in info["chosen"]
        assert f"{rule} cannot see" in info["selection_reason"]
    info = FmdPairs(penalties=(1e-2,)).fit(two_classes).info
    assert info["selection"] == "unbiased_accuracy"
    assert "selection_reason" not in info


def test_empty_cells_of_the_pairs_are_named(two_classes: Problem) -> None:
    full = FmdPairs(penalties=(1e-2,)).fit(two_classes)
    assert "empty_cells" not in full.info
    pairs, pairs_cf = two_classes.pairs, two_classes.pairs_cf
    some = ~((pairs.y == 1) & ((pairs.a == 0) | (pairs_cf.a == 0)))
    fewer = replace(two_classes, pairs=pairs.take(some), pairs_cf=pairs_cf.take(some))
    assert "y=1,a=0" in FmdPairs(penalties=(1e-2,)).fit(fewer).info["empty_cells"]
