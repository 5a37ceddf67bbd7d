"""Training that knows the groups: reweighted, resampled, group DRO."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from efface.data.base import Dataset, TensorSplit
from efface.data.groups import groups, kamiran_calders
from efface.models.linear import linear
from efface.training import Erm
from efface.training.group_dro import GroupDro, WorstGroup
from efface.training.head import Head, HeadGroupDro, HeadResampled, HeadReweighted
from efface.training.reading import read_out
from efface.training.resampled import Resampled, balanced_order
from efface.training.reweighted import Reweighted

COUNTS = torch.tensor([[400.0, 60.0], [40.0, 300.0]])


def biased(counts: Tensor, generator: torch.Generator, shortcut: float = 3.0) -> TensorSplit:
    """Label and attribute each move one coordinate, the attribute's by more: a linear model is drawn to it."""
    cells = [(y, a) for y in range(2) for a in range(2) for _ in range(int(counts[y, a]))]
    y, a = torch.tensor(cells).T
    x = torch.stack([2.0 * y - 1, shortcut * (2.0 * a - 1)], 1) + torch.randn(len(y), 2, generator=generator)
    return TensorSplit(torch.arange(len(y)), y, a, x)


@pytest.fixture
def data(mini: Dataset, generator: torch.Generator) -> Dataset:
    train, val = biased(COUNTS, generator), biased(torch.full((2, 2), 100.0), generator)
    return replace(mini, train=train, val=val, test=val, classes=("0", "1"), attributes=("0", "1"), input_shape=(2,))


def group_accuracy(training: Erm, data: Dataset) -> Tensor:
    torch.manual_seed(0)
    model = linear(input_shape=(2,), n_classes=2)
    training.fit(model, data, seed=0, device="cpu", progress=False)
    correct = read_out(model, data.val, device="cpu").argmax(1) == data.val.y
    return torch.stack([correct[groups(data.val.y, data.val.a, 2) == g].double().mean() for g in range(4)])


OPTIONS = {"epochs": 15, "lr": 0.05, "batch_size": 100, "select": "last"}


@pytest.mark.parametrize(
    "training",
    [
        Reweighted(**OPTIONS),  # type: ignore[arg-type]
        Reweighted(**OPTIONS, weights="groups"),  # type: ignore[arg-type]
        Resampled(**OPTIONS),  # type: ignore[arg-type]
        GroupDro(**OPTIONS),  # type: ignore[arg-type]
        GroupDro(**OPTIONS, balanced=False, step_size=0.2),  # type: ignore[arg-type]
    ],
    ids=["kamiran_calders", "groups", "resampled", "group_dro", "group_dro unbalanced"],
)
def test_worst_group_is_better_than_with_erm(data: Dataset, training: Erm) -> None:
    plain, aware = group_accuracy(Erm(**OPTIONS), data), group_accuracy(training, data)  # type: ignore[arg-type]
    assert aware.min() > plain.min() + 0.05
    assert aware.mean() > plain.mean()


@pytest.mark.parametrize("kind", ["kamiran_calders", "groups"])
def test_reweighted_minimises_the_weighted_loss(data: Dataset, kind: str) -> None:
    objective = Reweighted(weights=kind).objective(data, "cpu")  # type: ignore[arg-type]
    y, a = data.train.y, data.train.a
    logits = torch.randn(len(y), 2)
    losses = functional.cross_entropy(logits, y, reduction="none").double()
    if kind == "kamiran_calders":
        expected = (kamiran_calders(y, a, 2, 2) * losses).mean()
    else:
        expected = torch.stack([losses[groups(y, a, 2) == g].mean() for g in range(4)]).mean()
    torch.testing.assert_close(objective(logits, torch.arange(len(y))).double(), expected)
    # Batches of a shuffled epoch average to the whole.
    rows = torch.randperm(len(y))[:400].split(100)
    mean = sum(objective(logits[part], part) for part in rows) / 4
    torch.testing.assert_close(mean, objective(logits[torch.cat(rows)], torch.cat(rows)))


@pytest.mark.parametrize("training", [HeadGroupDro, HeadResampled, HeadReweighted])
def test_head_that_knows_the_groups_is_better_in_the_worst_and_stops(data: Dataset, training: type[Erm]) -> None:
    options = {"lr": 0.05, "batch_size": 100}
    aware = training(**options, patience=3)  # type: ignore[call-arg, arg-type]
    assert aware.head_only
    assert group_accuracy(aware, data).min() > group_accuracy(Head(**options), data).min() + 0.05  # type: ignore[arg-type]
    trained = aware.fit(linear(input_shape=(2,), n_classes=2), data, seed=0, device="cpu", progress=False)
    assert len(trained.history) == trained.best_epoch + 4 < aware.epochs
    assert ("q_y=0,a=0" in trained.history[0]) == (training is HeadGroupDro)


def test_balanced_epoch_draws_groups_equally_often(data: Dataset, generator: torch.Generator) -> None:
    rows = torch.cat([balanced_order(data, generator) for _ in range(20)])
    share = torch.bincount(groups(data.train.y[rows], data.train.a[rows], 2)) / len(rows)
    torch.testing.assert_close(share, torch.full((4,), 0.25), atol=0.02, rtol=0)
    assert len(rows.unique()) == len(data.train)


def worst_group(data: Dataset, **options: float) -> WorstGroup:
    y, a = data.train.y, data.train.a
    return WorstGroup(groups(y, a, 2), y, COUNTS, **{"step_size": 0.1, "adjustment": 0.0, **options}, device="cpu")  # type: ignore[arg-type]


def test_group_weights_follow_algorithm_1(data: Dataset) -> None:
    objective = worst_group(data, adjustment=2.0)
    rows = torch.tensor([0, 1, 2, 450, 461, 500, 501])  # group 2 twice or more, and not the last
    logits = torch.randn(len(rows), 2, requires_grad=True)
    loss = objective(logits, rows)

    group = groups(data.train.y, data.train.a, 2)[rows]
    losses = functional.cross_entropy(logits, data.train.y[rows], reduction="none")
    q = []
    means = []
    for g in range(4):
        mean = losses[group == g].mean() if (group == g).any() else torch.zeros(())
        means.append(mean)
        q.append(0.25 * torch.exp(0.1 * (mean.detach() + 2.0 / COUNTS.flatten()[g].sqrt())))
    weights = torch.stack(q) / sum(q)
    torch.testing.assert_close(objective.q, weights)
    torch.testing.assert_close(loss, weights @ torch.stack(means))
    (gradient,) = torch.autograd.grad(loss, logits)  # q is no function of the model
    (expected,) = torch.autograd.grad((weights * torch.stack(means)).sum(), logits)
    torch.testing.assert_close(gradient, expected)
    assert objective.report() == pytest.approx(
        dict(zip(["q_y=0,a=0", "q_y=0,a=1", "q_y=1,a=0", "q_y=1,a=1"], weights.tolist(), strict=True))
    )


def test_group_dro_without_a_step_is_resampling(data: Dataset) -> None:
    torch.manual_seed(0)
    start = linear(input_shape=(2,), n_classes=2)
    objective = worst_group(data, step_size=0.0)
    for _ in range(3):
        objective(start(data.train.inputs(torch.arange(800))), torch.arange(800))
    torch.testing.assert_close(objective.q, torch.full((4,), 0.25))


def test_group_dro_weighs_the_groups_that_cannot_be_told_apart(data: Dataset) -> None:
    train = data.train
    x = train.inputs(torch.arange(len(train)))
    x[(train.a == 0) & (train.y == 1), 0] -= 2  # now distributed as those of y = 0
    hard = replace(data, train=TensorSplit(train.index, train.y, train.a, x))
    torch.manual_seed(0)
    trained = GroupDro(epochs=8, lr=0.05, batch_size=100, step_size=0.1).fit(
        linear(input_shape=(2,), n_classes=2), hard, seed=0, device="cpu", progress=False
    )
    for row in trained.history:
        assert sum(value for name, value in row.items() if name.startswith("q_")) == pytest.approx(1)
    assert trained.history[-1]["q_y=0,a=0"] + trained.history[-1]["q_y=1,a=0"] > 0.9


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Reweighted, "no weights make a independent of y: no samples with y=1,a=0"),
        (lambda: Reweighted(weights="groups"), "no samples with y=1,a=0"),
        (Resampled, "no samples with y=1,a=0"),
        (GroupDro, r"there are none with \['y=1,a=0'\]"),
    ],
)
def test_empty_group_is_named(data: Dataset, generator: torch.Generator, make: Callable[[], Erm], message: str) -> None:
    lacking = replace(data, train=biased(torch.tensor([[9.0, 9.0], [0.0, 9.0]]), generator))
    with pytest.raises(ValueError, match=message):
        make().fit(linear(input_shape=(2,), n_classes=2), lacking, seed=0, device="cpu", progress=False)


def test_bad_options() -> None:
    with pytest.raises(ValueError, match=r"^weights is 'fair', but must be kamiran_calders \| groups$"):
        Reweighted(weights="fair")  # type: ignore[arg-type]
    for name in ("step_size", "adjustment"):
        with pytest.raises(ValueError, match=f"^{name} is -1.0, but must be a number >= 0$"):
            GroupDro(**{name: -1.0})  # type: ignore[arg-type]
