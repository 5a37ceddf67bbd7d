"""IGBP: where a step leads, what networks read afterwards, and what a file of it holds."""

from pathlib import Path

import pytest
import torch
from mlxtend.data import iris_data
from sklearn.datasets import load_digits
from torch import Tensor

from efface.erasure.igbp import IgbpEraser, _contrasts, undecided
from efface.erasure.leace import LeaceEraser
from efface.erasure.readers import Network
from efface.evaluation.probes import Standardiser, mlp_probe


def digits() -> tuple[Tensor, Tensor]:
    """Half of the handwritten digits 0 … 9 of scikit-learn, and whether each is odd: a concept that is not linear."""
    x, y = load_digits(return_X_y=True)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y) % 2


def linear_network(weight: Tensor, bias: Tensor) -> Network:
    """Logits that are linear: relu(x) − relu(−x) is x."""
    d = weight.shape[1]
    eye = torch.eye(d, dtype=weight.dtype)
    hidden = torch.cat([eye, -eye])
    return Network(hidden, torch.zeros(2 * d, dtype=weight.dtype), torch.cat([weight, -weight], 1), bias)


@pytest.mark.parametrize("k", [2, 3, 6])
def test_step_lands_where_a_linear_network_is_undecided(k: int, generator: torch.Generator) -> None:
    x = torch.randn(50, 8, generator=generator, dtype=torch.float64)
    weight = torch.randn(k, 8, generator=generator, dtype=torch.float64)
    network = linear_network(weight, torch.randn(k, generator=generator, dtype=torch.float64))
    moved = undecided(network, x)
    logits = network(moved)
    torch.testing.assert_close(logits, logits[:, :1].expand_as(logits))
    # The shortest such step: it is in the span of the differences of the rows.
    rows = (weight - weight.mean(0)).mT
    step = (moved - x).mT
    torch.testing.assert_close(rows @ torch.linalg.pinv(rows) @ step, step)


def test_step_of_two_classes_is_the_formula_of_the_paper(generator: torch.Generator) -> None:
    x = torch.randn(30, 5, generator=generator, dtype=torch.float64).requires_grad_()
    sizes = ((7, 5), (7,), (2, 7), (2,))
    network = Network(*(torch.randn(*size, generator=generator, dtype=torch.float64) for size in sizes))
    f = network(x)[:, 0] - network(x)[:, 1]
    (gradient,) = torch.autograd.grad(f.sum(), x)
    expected = x - (f / gradient.square().sum(1))[:, None] * gradient
    torch.testing.assert_close(undecided(network, x.detach()), expected.detach())


def test_samples_whose_logits_do_not_depend_on_x_stay(generator: torch.Generator) -> None:
    x = torch.randn(4, 5, generator=generator)
    network = Network(torch.zeros(7, 5), -torch.ones(7), torch.randn(3, 7, generator=generator), torch.arange(3.0))
    assert torch.equal(undecided(network, x), x)


def test_contrasts_are_an_orthonormal_basis_of_what_sums_to_zero() -> None:
    contrasts = _contrasts(5)
    torch.testing.assert_close(contrasts @ contrasts.mT, torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(contrasts.sum(1), torch.zeros(4, dtype=torch.float64))


def test_network_reads_much_less_of_other_samples_than_after_leace(generator: torch.Generator) -> None:
    """Of whether two numbers have one sign, which no linear function tells, so that LEACE takes nothing."""
    x = torch.randn(1200, 2, generator=generator)
    z = (x[:, 0] * x[:, 1] > 0).long()
    fitted, others = torch.arange(len(x)) % 2 == 0, torch.arange(len(x)) % 2 == 1
    igbp = IgbpEraser.fit(x[fitted], z[fitted], iterations=4, width=32)
    leace = LeaceEraser.fit(x[fitted], z[fitted])
    read = []
    for eraser in (leace, igbp):
        erased = eraser(x[others])
        read.append(mlp_probe(Standardiser.of(erased)(erased), z[others], z[others], 2).information)
    assert read[1] < 0.5 * read[0]
    assert igbp.readings[-1].information < 0.5 * igbp.readings[0].information
    assert igbp.readings[0].shift == 0 < igbp.readings[-1].shift


def test_nothing_is_done_where_x_tells_nothing(generator: torch.Generator) -> None:
    x, z = torch.randn(200, 5, generator=generator), torch.arange(200) % 2
    eraser = IgbpEraser.fit(x, z, width=8)
    assert len(eraser.hidden_weight) < 10
    assert eraser.readings[-1].information == 0


def test_fit_is_deterministic_whatever_the_units_and_weights_within_equal_classes() -> None:
    x, z = digits()
    x, z = x[:300].double(), z[:300]  # training multiplies rounding
    eraser = IgbpEraser.fit(x, z, iterations=1, width=8, seed=3)
    again = IgbpEraser.fit(x, z, iterations=1, width=8, seed=3, weight=torch.where(z == 0, 2.0, 7.0))
    assert torch.equal(eraser(x), again(x))
    scaled = IgbpEraser.fit(4 * x + 16, z, iterations=1, width=8, seed=3)
    torch.testing.assert_close(scaled(4 * x + 16), 4 * eraser(x) + 16, rtol=1e-6, atol=1e-5)
    assert not torch.equal(eraser(x), IgbpEraser.fit(x, z, iterations=1, width=8, seed=4)(x))
    assert len(list(eraser.steps(x))) == 1


@pytest.mark.parametrize("iterations", [1, 3])
def test_file_holds_the_networks(tmp_path: Path, iterations: int) -> None:
    x, z = iris_data()
    x, z = torch.tensor(x), torch.tensor(z)
    eraser = IgbpEraser.fit(x, z, iterations=iterations, width=8)
    eraser.save(tmp_path / "eraser")
    loaded = IgbpEraser.load(tmp_path / "eraser")
    assert torch.equal(loaded(x), eraser(x))
    assert torch.equal(eraser(x.view(3, 50, 4)).view(150, 4), eraser(x))
    assert eraser(x[:0]).shape == (0, 4)
    assert eraser(x.long()).is_floating_point()


def test_bad_input() -> None:
    x, z = iris_data()
    x, z = torch.tensor(x), torch.tensor(z)
    with pytest.raises(ValueError, match="z is constant"):
        IgbpEraser.fit(x, torch.zeros_like(z))
    with pytest.raises(ValueError, match=r"classes \[2\] have fewer than two samples of positive weight"):
        IgbpEraser.fit(x[:101], z[:101])
    with pytest.raises(ValueError, match=r"classes \[1\] have fewer than two samples"):
        IgbpEraser.fit(x, z, weight=(z != 1).double())
    with pytest.raises(ValueError, match="iterations is 0, but must be at least 1"):
        IgbpEraser.fit(x, z, iterations=0)
    with pytest.raises(ValueError, match="width is 0"):
        IgbpEraser.fit(x, z, width=0)
    with pytest.raises(ValueError, match=r"x has shape \[150, 3\], but its last dimension must be 4"):
        IgbpEraser.fit(x, z, iterations=1, width=4)(x[:, :3])
