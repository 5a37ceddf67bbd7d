"""Training that debiases: Just Train Twice, Learning from Failure, EnD, disentangled augmentation, ReBias."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.conftest import executed
from tests.data import celeba_files
from torch import Tensor, nn
from torch.nn import functional

from efface.data.base import Dataset
from efface.data.celeba import CelebA
from efface.models.base import Model
from efface.models.convnet import convnet
from efface.models.linear import linear
from efface.models.mlp import mlp
from efface.models.resnet20 import resnet20
from efface.record import Record
from efface.runs.base_model import base_model
from efface.runs.grid import GridRun
from efface.training import Erm, read_out
from efface.training.difficulty import RelativeDifficulty, generalised_cross_entropy
from efface.training.end import End, disentangling, entangling
from efface.training.jtt import Jtt, Repeated
from efface.training.ldd import Ldd, TwoEncoders
from efface.training.lff import Lff
from efface.training.rebias import Rebias, hsic
from efface.training.stepped import Stepped

TRAININGS: list[Erm] = [
    Jtt(epochs=2, upweight=5, select="last", batch_size=64),
    Lff(epochs=6, batch_size=64),
    End(epochs=4, lr=3e-3, batch_size=64),
    Ldd(epochs=5, swap_after=2, lr=3e-3, batch_size=64),
    Rebias(epochs=4, lr=0.01, batch_size=32, channels=[8, 8]),
]
IDS = [type(training).__name__.lower() for training in TRAININGS]


def network(training: Erm, dataset: Dataset, **options: list[int]) -> Model:
    torch.manual_seed(0)
    build: Callable[..., Model] = convnet if isinstance(training, Rebias) else mlp
    sizes = options or ({"channels": [8, 16]} if build is convnet else {"hidden": [64, 32]})
    return training.network(build(input_shape=dataset.input_shape, n_classes=len(dataset.classes), **sizes))


def fitted(training: Erm, dataset: Dataset, seed: int = 0) -> Model:
    model = network(training, dataset)
    training.fit(model, dataset, seed=seed, device="cpu", progress=False)
    return model


def with_train(dataset: Dataset, rows: Tensor) -> Dataset:
    return replace(dataset, train=Repeated(dataset.train, rows))


def thinned(dataset: Dataset, n: int) -> Dataset:
    """The data with n samples of train, evenly from all of it, which is sorted by label."""
    return with_train(dataset, torch.arange(0, len(dataset.train), len(dataset.train) // n)[:n])


def accuracy(model: Model, dataset: Dataset) -> float:
    return float((read_out(model, dataset.val, device="cpu").argmax(1) == dataset.val.y).double().mean())


@pytest.mark.parametrize("training", TRAININGS, ids=IDS)
def test_training_learns_repeats_and_depends_on_the_seed(mini: Dataset, training: Erm) -> None:
    dataset = thinned(mini, 750)
    model = fitted(training, dataset)
    assert accuracy(model, dataset) > 0.5  # chance is 0.1
    changes = {"epochs": 1} | ({"swap_after": 0} if isinstance(training, Ldd) else {})
    brief, few = replace(training, **changes), thinned(mini, 150)  # type: ignore[type-var]
    one, same, other = (read_out(fitted(brief, few, seed=seed), mini.val, device="cpu") for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("training", TRAININGS, ids=IDS)
def test_training_can_fit_a_few_samples_entirely(mini: Dataset, training: Erm) -> None:
    few = thinned(mini, 20)
    changes = {"epochs": 100, "batch_size": 20, "lr": 3e-3}
    if isinstance(training, Stepped):
        changes["decay"] = 1.0
    if isinstance(training, Ldd):
        changes["swap_after"] = 50
    model = fitted(replace(training, **changes), few)  # type: ignore[type-var]
    assert torch.equal(read_out(model, few.train, device="cpu").argmax(1), few.train.y)


@pytest.mark.parametrize("training", [Jtt, Lff, Ldd, Rebias], ids=lambda kind: kind.__name__.lower())
def test_training_that_is_not_told_the_attribute_does_not_read_it(mini: Dataset, training: type[Erm]) -> None:
    few = thinned(mini, 200)
    assert isinstance(few.train, Repeated)

    class Blind(Repeated):
        @property
        def a(self) -> Tensor:
            raise AssertionError("the attribute of train was read")

    blind = replace(few, train=Blind(few.train.split, few.train.rows))
    fitted(training(epochs=1, select="last"), blind)  # type: ignore[call-arg]
    with pytest.raises(AssertionError, match="was read"):
        fitted(End(epochs=1), blind)


def test_jtt_shows_exactly_the_misclassified_more_often(mini: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Dataset] = []
    fit = Erm.fit

    def spy(self: Erm, model: Model, dataset: Dataset, **options: object) -> object:
        shown.append(dataset)
        return fit(self, model, dataset, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Erm, "fit", spy)
    training = Jtt(epochs=1, first_epochs=2, upweight=7, select="last")
    model = network(training, mini)
    first = network(training, mini)
    trained = training.fit(model, mini, seed=0, device="cpu", progress=False)
    Erm(epochs=2).fit(first, mini, seed=0, device="cpu", progress=False)

    wrong = read_out(first, mini.train, device="cpu").argmax(1) != mini.train.y
    assert 0 < int(wrong.sum()) < len(mini.train) / 2
    upsampled = shown[1].train
    assert isinstance(upsampled, Repeated)
    counts = torch.bincount(upsampled.rows, minlength=len(mini.train))
    assert torch.equal(counts, torch.where(wrong, 7, 1))
    assert trained.history[0]["upweighted"] == int(wrong.sum())
    some = torch.tensor([3, len(upsampled) - 1])
    torch.testing.assert_close(upsampled.inputs(some), mini.train.inputs(upsampled.rows[some]))
    assert torch.equal(upsampled.y[some], mini.train.y[upsampled.rows[some]])


def test_jtt_without_an_error_of_the_first_model_says_so(mini: Dataset) -> None:
    few = thinned(mini, 20)
    with pytest.raises(ValueError, match=r"misclassifies no sample of train after 100 epochs.*lower training.first_ep"):
        fitted(Jtt(epochs=1, first_epochs=100, batch_size=20, lr=3e-3), few)


def test_generalised_cross_entropy_lies_between_cross_entropy_and_one_minus_p(generator: torch.Generator) -> None:
    logits, y = torch.randn(50, 4, generator=generator, dtype=torch.float64), torch.arange(50) % 4
    p = logits.softmax(1)[torch.arange(50), y]
    torch.testing.assert_close(generalised_cross_entropy(logits, y, 1.0), 1 - p)
    torch.testing.assert_close(generalised_cross_entropy(logits, y, 1e-9), -p.log(), rtol=1e-5, atol=1e-5)
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(generalised_cross_entropy(logits, y, 0.7).sum(), logits)
    (plain,) = torch.autograd.grad(functional.cross_entropy(logits, y, reduction="sum"), logits)
    torch.testing.assert_close(gradient, p[:, None] ** 0.7 * plain)


def test_relative_difficulty_is_that_of_averaged_losses_over_the_largest_of_the_class() -> None:
    y = torch.tensor([0, 0, 1])
    weigh = RelativeDifficulty(y, 2, ema=0.7, device="cpu")

    def logits(*losses: float) -> Tensor:
        """Logits under which the cross-entropies of samples 0, 1, 2 are these."""
        p = torch.tensor([math.exp(-loss) for loss in losses])
        rows = torch.stack([p, 1 - p], 1)
        rows[2:] = rows[2:].flip(1)
        return rows.log()

    first = weigh(logits(4.0, 1.0, 3.0), logits(1.0, 2.0, 3.0), torch.arange(3))
    # Of class 0 the largest losses are 4 (biased) and 2 (debiased), of class 1 both are 3.
    torch.testing.assert_close(first, torch.tensor([1 / (1 + 0.5), 0.25 / (0.25 + 1), 0.5]))
    # Sample 0 alone again: its averages are .7 · 4 + .3 · 2 = 3.4 and .7 · 1 + .3 · 5 = 2.2, the largest of both.
    second = weigh(logits(2.0), logits(5.0), torch.tensor([0]))
    torch.testing.assert_close(second, torch.tensor([0.5]))
    third = weigh(logits(1.0, 1.0)[1:], logits(1.0, 2.0)[1:], torch.tensor([1]))
    torch.testing.assert_close(third, torch.tensor([(1 / 3.4) / (1 / 3.4 + 2 / 2.2)]))


def test_conflicting_samples_get_more_weight(mini: Dataset, generator: torch.Generator) -> None:
    training = Lff(epochs=10)
    model = network(training, mini)
    learner = training.learner(model.train(), mini, seed=0, device="cpu")
    optimizer = torch.optim.Adam(learner.trained.parameters(), lr=3e-3)
    for _ in range(6):
        for rows in torch.randperm(len(mini.train), generator=generator).split(256):
            optimizer.zero_grad()
            learner(mini.train.inputs(rows), rows)[0].backward()
            optimizer.step()
        mean = learner.report()["mean_weight"]
    rows = torch.arange(len(mini.train))
    with torch.no_grad():
        logits, guess = (network(mini.train.inputs(rows)) for network in learner.trained)
    weight = learner._weigh(guess, logits, rows)  # type: ignore[attr-defined]
    conflicting = mini.train.y != mini.train.a
    assert float(weight[conflicting].mean()) > 1.5 * float(weight[~conflicting].mean())
    assert 0 < mean < 1


FEATURES = torch.tensor([[2.0, 0.0], [3.0, 3.0], [0.0, 1.0], [-1.0, 0.0]])
Y, A = torch.tensor([0, 0, 1, 0]), torch.tensor([0, 1, 1, 1])


def test_end_terms_of_a_batch_by_hand() -> None:
    half = math.sqrt(0.5)
    # Pairs of attribute 1: samples 1, 2 at 45°, 1, 3 at 135°, 2, 3 at 90°; attribute 0 has one sample.
    assert float(disentangling(FEATURES, A)) == pytest.approx(abs(half - half + 0) / 3, abs=1e-6)
    # Attributes {0, 1} and {2, 3}: sums of half and 0, of two pairs.
    assert float(disentangling(FEATURES, torch.tensor([0, 0, 1, 1]))) == pytest.approx(half / 2)
    # Pairs of label 0 under unlike attributes: 0, 1 at 45° and 0, 3 at 180°.
    assert float(entangling(FEATURES, Y, A)) == pytest.approx(1 - ((1 + half) / 2 + 0) / 2)


def test_end_terms_are_zero_where_there_is_no_such_pair() -> None:
    assert float(disentangling(FEATURES, torch.arange(4))) == 0
    assert float(entangling(FEATURES, torch.arange(4), A)) == 0
    assert float(entangling(FEATURES, Y, torch.zeros(4, dtype=torch.int64))) == 0


def test_end_makes_features_orthogonal_within_an_attribute_and_alike_within_a_label(mini: Dataset) -> None:
    def terms(alpha: float, beta: float) -> dict[str, float]:
        training = End(epochs=4, alpha=alpha, beta=beta)
        return training.fit(network(training, mini), mini, seed=0, device="cpu", progress=False).history[-1]

    plain = terms(0.0, 0.0)
    assert terms(3.0, 0.0)["disentangling"] < plain["disentangling"] - 0.05
    assert terms(0.0, 3.0)["entangling"] < plain["entangling"] - 0.05


def test_hsic_is_the_mean_over_all_quadruples_and_has_no_bias(generator: torch.Generator) -> None:
    def kernel(x: Tensor) -> Tensor:
        return (-torch.cdist(x, x).square() / (2 * 0.8**2)).exp()

    x = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    y = x[:, :2].square() + 0.1 * torch.randn(7, 2, generator=generator, dtype=torch.float64)
    k, q = kernel(x), kernel(y)
    # E[k q] + E[k] E[q] - 2 E[k q'], each expectation over distinct samples.
    terms = [k[i, j] * (q[i, j] + q[r, s] - 2 * q[i, r]) for i, j, r, s in itertools.permutations(range(7), 4)]
    torch.testing.assert_close(hsic(x, y, 0.8), torch.stack(terms).mean())
    independent = [
        hsic(torch.randn(20, 2, generator=generator), torch.randn(20, 2, generator=generator)) for _ in range(300)
    ]
    mean, error = torch.stack(independent).mean(), torch.stack(independent).std() / math.sqrt(300)
    assert abs(float(mean)) < 3 * float(error)
    with pytest.raises(ValueError, match="x has 3 samples, but the estimate of HSIC needs 4 or more"):
        hsic(x[:3], y[:3])


def test_rebias_networks_pull_at_hsic_in_opposite_directions(mini: Dataset) -> None:
    # So strong that the cross-entropies do not count.
    training = Rebias(strength=1e3, channels=[8], precision="float32")
    learner = training.learner(network(training, mini).train(), mini, seed=0, device="cpu")
    rows = torch.arange(0, 3000, 50)
    f, g = learner.trained
    learner(mini.train.inputs(rows), rows)[0].backward()

    def dependence(sign: float, network: nn.Module) -> float:
        """HSIC after a small step of one network against its gradient."""
        with torch.no_grad():
            for parameter in network.parameters():
                parameter -= sign * parameter.grad / 1e3
            features = [part.backbone(mini.train.inputs(rows)) for part in (f, g)]  # type: ignore[operator, union-attr]
            value = float(hsic(*features))
            for parameter in network.parameters():
                parameter += sign * parameter.grad / 1e3
        return value

    assert dependence(1, f) < dependence(-1, f)
    assert dependence(1, g) > dependence(-1, g)
    assert set(learner.report()) == {"hsic"}


def test_network_of_single_pixels_cannot_tell_where_a_pixel_is(mini: Dataset) -> None:
    training = Rebias()
    learner = training.learner(network(training, mini), mini, seed=0, device="cpu")
    biased = learner.trained[1].eval()
    x = mini.train.inputs(torch.arange(4))
    shuffled = x.flatten(2)[:, :, torch.randperm(28 * 28)].view_as(x)
    torch.testing.assert_close(biased(x), biased(shuffled))


def test_ldd_losses_have_a_gradient_to_their_own_encoder_only(mini: Dataset) -> None:
    rows = torch.arange(64)
    for options, trained, still in (
        ({"biased": 0.0, "swap_biased": 0.0}, "intrinsic", "biased"),
        ({"biased": 1.0, "swap_biased": 1.0}, "biased", None),
    ):
        training = Ldd(swap_after=0, **options)  # type: ignore[arg-type]
        model = network(training, mini)
        learner = training.learner(model.train(), mini, seed=0, device="cpu")
        learner(mini.train.inputs(rows), rows)[0].backward()
        size = {
            name: sum(float(p.grad.abs().sum()) for p in getattr(model.backbone, name).parameters())
            for name in ("intrinsic", "biased")
        }
        assert size[trained] > 0
        assert still is None or size[still] == 0


def test_ldd_is_two_encoders_under_one_head_and_swaps_from_an_epoch_on(mini: Dataset) -> None:
    training = Ldd(epochs=3, swap_after=2)
    model = network(training, mini)
    assert model.head.in_features == 64
    trained = training.fit(model, mini, seed=0, device="cpu", progress=False)
    assert [row["swapped"] for row in trained.history] == [0, 0, 1]
    backbone = model.backbone
    assert isinstance(backbone, TwoEncoders)
    x = mini.val.inputs(torch.arange(5))
    torch.testing.assert_close(backbone(x), torch.cat([backbone.intrinsic(x), backbone.biased(x)], 1))
    # The biased half says more of the colour, which stands in for the label in nearly all of train.
    rates = [training.rate(epoch) for epoch in (0, 48, 49, 95, 96)]
    assert rates == [1, 1, 0.5, 0.5, 0.25]


def test_learning_rate_falls_by_steps(mini: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = torch.optim.Adam.step

    def spy(self: torch.optim.Adam, *arguments: object) -> object:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    fitted(End(epochs=5, lr=0.01, decay_every=2, decay=0.5), thinned(mini, 100))
    assert rates == [0.01, 0.01, 0.005, 0.005, 0.0025]


def test_what_a_training_needs_is_named_before_it_begins(mini: Dataset, parts_of: Callable[..., GridRun]) -> None:
    flat = linear(input_shape=mini.input_shape, n_classes=10)
    table = replace(mini, input_shape=(2352,))
    aligned = with_train(mini, (mini.train.y == mini.train.a).nonzero()[:, 0])
    single = convnet(input_shape=mini.input_shape, n_classes=10, kernel_size=1)
    wide = convnet(input_shape=mini.input_shape, n_classes=10)
    for training, model, dataset, message in (
        (Rebias(), wide, table, r"training=rebias needs images .* inputs have shape \(2352,\)"),
        (Rebias(), flat, mini, "the model has no convolution wider than that"),
        (Rebias(), single, mini, "the model has no convolution wider than that"),
        (End(), wide, mini, r"training=end needs length one: train End\(\).network\(model\)"),
        (End(), End().network(wide), aligned, "in train every label has one attribute only"),
        (Ldd(), wide, mini, r"training=ldd needs two: train Ldd\(\).network\(model\)"),
    ):
        with pytest.raises(ValueError, match=message):
            training.fit(model, dataset, seed=0, device="cpu", progress=False)
    for training in (Ldd(), End()):
        with pytest.raises(
            ValueError, match="shapes the features, but those of this model are its inputs: take model=mlp"
        ):
            training.network(flat)
    with pytest.raises(ValueError, match=r"^q is 0.0, but must be a number > 0 and <= 1$"):
        Lff(q=0.0)


@pytest.mark.parametrize("name", ["jtt", "lff", "end", "ldd", "rebias"])
def test_configuration_has_the_defaults_of_the_class(parts_of: Callable[..., GridRun], name: str) -> None:
    training = parts_of(f"training={name}").training
    published: dict[str, object] = {
        "end": {"weight_decay": 1e-4},
        "rebias": {"weight_decay": 1e-4},
        "ldd": {"lr": 0.01},
    }.get(name, {})
    if isinstance(training, Rebias):
        assert tuple(training.channels) == Rebias().channels
        published["channels"] = training.channels
    assert training == type(training)(epochs=20, **published)  # type: ignore[arg-type]


def test_a_method_is_applied_to_both_encoders_and_the_model_is_read_again(
    parts_of: Callable[..., GridRun], tmp_path: Path
) -> None:
    options = ("training.epochs=1", "training.swap_after=0", "model.hidden=[16]", "evaluation.bootstrap=0")
    run = executed(parts_of("training=ldd", "method=leace", *options), tmp_path)
    record = Record.read(next(tmp_path.rglob("record.json")))
    assert record.status == "done"
    assert record.info["d"] == 32
    extraction = base_model(run, repeat="the command")
    assert isinstance(extraction.model.backbone, TwoEncoders)
    history = record.info["training"]["history"]
    assert [row["swapped"] for row in history] == [1.0]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("photographs")
    celeba_files.write(folder)
    return CelebA(target="Blond_Hair", attributes=["Male"], resolution=16).load(
        data_dir=folder, cache_dir=folder / "cache", seed=0
    )


@pytest.mark.parametrize("training", TRAININGS, ids=IDS)
def test_photographs_can_be_trained_on(photographs: Dataset, training: Erm) -> None:
    torch.manual_seed(0)
    model = training.network(resnet20(input_shape=photographs.input_shape, n_classes=2))
    brief = replace(training, epochs=1, augment=True)  # type: ignore[type-var]
    trained = brief.fit(model, photographs, seed=0, device="cpu", progress=False)
    assert math.isfinite(trained.history[0]["loss"])
    assert read_out(model, photographs.test, device="cpu").shape == (len(photographs.test), 2)
