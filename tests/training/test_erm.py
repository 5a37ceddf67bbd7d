import copy

import pytest
import torch

from efface.data.base import Dataset
from efface.models.linear import linear
from efface.models.mlp import mlp
from efface.training import Erm, read_out, resolve_device
from efface.training.head import Head


def fit(mini: Dataset, seed: int = 0, **options: object) -> tuple[torch.nn.Module, object]:
    torch.manual_seed(seed)
    model = mlp(input_shape=mini.input_shape, n_classes=10, hidden=[32])
    trained = Erm(**{"epochs": 3, **options}).fit(model, mini, seed=seed, device="cpu", progress=False)  # type: ignore[arg-type]
    return model, trained


def test_erm_learns_and_repeats_exactly(mini: Dataset) -> None:
    model, trained = fit(mini)
    again, trained_again = fit(mini)
    assert [row["epoch"] for row in trained.history] == [0, 1, 2]  # type: ignore[attr-defined]
    assert trained.history[-1]["accuracy"] > 0.8  # type: ignore[attr-defined]
    assert trained.history == trained_again.history  # type: ignore[attr-defined]
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_selection_keeps_the_best_epoch_on_val(mini: Dataset) -> None:
    # A large step makes the metric go up and down, so that the best epoch need not be the last.
    model, trained = fit(mini, lr=0.02, epochs=6, select="unbiased_accuracy")
    scores = [row["val_unbiased_accuracy"] for row in trained.history]  # type: ignore[attr-defined]
    assert trained.best_epoch == scores.index(max(scores))  # type: ignore[attr-defined]
    correct = read_out(model, mini.val, device="cpu").argmax(1) == mini.val.y
    cells = {(int(y), int(a)) for y, a in zip(mini.val.y, mini.val.a, strict=True)}
    by_cell = [float(correct[(mini.val.y == y) & (mini.val.a == a)].double().mean()) for y, a in cells]
    assert sum(by_cell) / len(by_cell) == pytest.approx(max(scores))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_other_optimisers_learn(mini: Dataset, optimizer: str) -> None:
    _, trained = fit(mini, optimizer=optimizer, lr=0.05 if optimizer == "sgd" else 1e-3, weight_decay=1e-4)
    assert trained.history[-1]["accuracy"] > 0.8  # type: ignore[attr-defined]


def test_seed_orders_the_batches_and_weight_decay_shrinks(mini: Dataset) -> None:
    torch.manual_seed(0)
    start = mlp(input_shape=mini.input_shape, n_classes=10, hidden=[32])
    runs = []
    for seed, weight_decay in ((0, 0.0), (1, 0.0), (0, 1.0)):
        model = copy.deepcopy(start)
        erm = Erm(epochs=1, optimizer="adamw", lr=1e-2, weight_decay=weight_decay)
        trained = erm.fit(model, mini, seed=seed, device="cpu", progress=False)
        runs.append((trained.history[0]["loss"], sum(float(p.detach().square().sum()) for p in model.parameters())))
    assert runs[0][0] != runs[1][0]
    assert runs[2][1] < 0.95 * runs[0][1]


def test_bfloat16_learns_as_well(mini: Dataset) -> None:
    _, exact = fit(mini)
    _, mixed = fit(mini, precision="bfloat16")
    assert mixed.history[-1]["accuracy"] == pytest.approx(exact.history[-1]["accuracy"], abs=0.03)  # type: ignore[attr-defined]


def test_read_out_is_the_module_in_batches(mini: Dataset) -> None:
    model, _ = fit(mini, epochs=0)
    rows = torch.arange(2500)
    features = read_out(model.backbone, mini.train, rows=rows, device="cpu")  # type: ignore[arg-type]
    with torch.no_grad():
        torch.testing.assert_close(features, model.backbone(mini.train.inputs(rows)))  # type: ignore[operator]
    a = (mini.train.a[rows] + 1) % 10
    flipped = read_out(model.backbone, mini.train, rows=rows, a=a, device="cpu")  # type: ignore[arg-type]
    with torch.no_grad():
        torch.testing.assert_close(flipped, model.backbone(mini.train.inputs(rows, a=a)))  # type: ignore[operator]


def test_read_out_of_no_rows_has_the_width_of_any(mini: Dataset) -> None:
    model, _ = fit(mini, epochs=0)
    none = torch.empty(0, dtype=torch.int64)
    assert read_out(model, mini.val, rows=none, device="cpu").shape == (0, 10)
    assert read_out(model.backbone, mini.val, rows=none, a=none, device="cpu").shape == (0, 32)  # type: ignore[arg-type]


def test_divergence_is_an_error(mini: Dataset) -> None:
    with pytest.raises(FloatingPointError, match=r"lower training.lr"):
        fit(mini, optimizer="sgd", lr=1e6)


def test_bad_options() -> None:
    for options, message in (
        ({"optimizer": "lbfgs"}, r"^optimizer is 'lbfgs', but must be adam \| adamw \| sgd$"),
        ({"lr": 0.0}, "^lr is 0.0, but must be a number > 0$"),
        ({"weight_decay": -1.0}, "^weight_decay is -1.0, but must be a number >= 0$"),
        ({"epochs": -1}, "^epochs is -1, but must be an integer >= 0$"),
        ({"batch_size": 0}, "^batch_size is 0, but must be an integer >= 1$"),
        ({"select": "test_accuracy"}, r"^select is 'test_accuracy', but must be last \| .*unbiased_accuracy"),
        ({"precision": "float8"}, r"^precision is 'float8', but must be float32 \| bfloat16 \| auto$"),
    ):
        with pytest.raises(ValueError, match=message):
            Erm(**options)


def test_missing_device_is_refused() -> None:
    assert resolve_device("auto") in ("cpu", "cuda")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no CUDA device"):
            resolve_device("cuda:0")


def test_selection_by_loss_keeps_the_epoch_of_the_least_cross_entropy(mini: Dataset) -> None:
    model, trained = fit(mini, epochs=8, lr=0.05, select="loss")
    losses = [row["val_loss"] for row in trained.history]  # type: ignore[attr-defined]
    best = trained.best_epoch  # type: ignore[attr-defined]
    assert losses[best] == min(losses)
    logits = read_out(model.eval(), mini.val, device="cpu")
    assert float(torch.nn.functional.cross_entropy(logits, mini.val.y)) == pytest.approx(losses[best], rel=1e-5)


def test_head_stops_once_val_no_longer_gets_better(mini: Dataset) -> None:
    torch.manual_seed(0)
    model = linear(input_shape=mini.input_shape, n_classes=10)
    trained = Head(lr=0.05, patience=2).fit(model, mini, seed=0, device="cpu", progress=False)
    assert len(trained.history) == trained.best_epoch + 3 < 100
    best = min(row["val_loss"] for row in trained.history)
    assert trained.history[trained.best_epoch]["val_loss"] == best


@pytest.mark.parametrize(
    ("options", "message"),
    [({"augment": True}, "the head sees features"), ({"select": "last"}, "training of a head ends by val")],
)
def test_head_refuses_what_it_cannot_do(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Head(**options)
