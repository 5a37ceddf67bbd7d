import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tests.erasure.test_leace import covariance, data

from efface.erasure.certificate import certify
from efface.erasure.leace import LeaceEraser, LeaceFitter, erase_in_sequence, erase_jointly

# --- Tolerances free of units ---


def sex_and_income(n: int = 4000, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    """Features that tell sex and income, and both: one of them a hundred thousand times as large as the other."""
    g = torch.Generator().manual_seed(0)
    sex = (torch.rand(n, generator=g) < 0.5).long()
    income = 30_000 + 20_000 * torch.randn(n, generator=g, dtype=torch.float64) + 5000 * sex
    x = torch.randn(n, 12, generator=g, dtype=torch.float64) @ torch.randn(12, 12, generator=g, dtype=torch.float64)
    x[:, 0] += 4 * sex
    x[:, 1] += income / 10_000
    return x.to(dtype), sex, income


@pytest.mark.parametrize("fit", [erase_jointly, erase_in_sequence])
@pytest.mark.parametrize("method", ["leace", "orth"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_concept_of_small_numbers_is_erased_beside_one_of_large_numbers(fit: Any, method: str, dtype: Any) -> None:
    """Covers audit A4: `rtol` was in the units of z, and sex kept 0.54 of 0.55 bits beside income in dollars."""
    x, sex, income = sex_and_income(dtype=dtype)
    before = certify(lambda x: x, x, sex)
    assert before.information is not None
    assert before.information > 0.2
    for concepts in ([sex, income], [income, sex]):
        eraser = fit(x, concepts, rtol=1e-4, method=method)
        assert eraser.rank == 2
        after = certify(eraser, x, sex)
        assert after.information is not None
        assert after.information < 1e-6
        assert after.whitened_covariance < 1e-5
        assert certify(eraser, x, income).whitened_covariance < 1e-5


def test_units_of_the_concept_do_not_change_the_eraser() -> None:
    x, sex, income = sex_and_income()
    z = torch.stack([sex.double(), income], 1)
    expected = LeaceEraser.fit(x, z, rtol=1e-4).P
    for units in ([1e9, 1e-9], [1e-12, 1.0], [1.0, 1e6]):
        P = LeaceEraser.fit(x, z * torch.tensor(units, dtype=z.dtype), rtol=1e-4).P
        torch.testing.assert_close(P, expected, rtol=1e-8, atol=1e-8)


def test_class_of_five_rows_is_erased() -> None:
    """Covers audit A4: at a method's default tolerance its mean stayed where it was, 5.5 off."""
    g = torch.Generator().manual_seed(0)
    y = (torch.rand(200_000, generator=g) < 0.5).long()
    y[:5] = 2
    x = torch.randn(200_000, 8, generator=g) + 2 * (y == 1)[:, None]
    x[:5] += 5.5
    eraser = LeaceEraser.fit(x, y, rtol=1.2e-4)
    assert eraser.rank == 2
    erased = eraser(x).double()
    assert (x[:5].mean(0) - x.mean(0)).abs().min() > 3
    assert (erased[:5].mean(0) - erased.mean(0)).abs().max() < 1e-4


def test_direction_left_in_place_is_warned_of_unless_it_is_rounding_noise() -> None:
    x, sex, _ = sex_and_income()
    faint = torch.randn(len(x), 1, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    noise = faint - x @ torch.linalg.lstsq(x, faint).solution  # uncorrelated with x, but for its mean
    noise = noise - noise.mean() + 1e-3 * x[:, 2:3] / x[:, 2].std()
    with pytest.warns(UserWarning, match=r"rtol=0.1 leaves 1 of 2 concept directions in place .* lower rtol"):
        assert erase_jointly(x, [sex, noise], rtol=0.1).rank == 1
    assert erase_jointly(x, [sex, noise], rtol=1e-4).rank == 2
    # What was erased already is rounding noise: it is not erased again, and no word is said.
    again = erase_in_sequence(x, [sex, sex], rtol=1e-4)
    assert again.rank == 1


@pytest.mark.parametrize("affine", [True, False])
def test_shrinkage_and_the_mean_do_not_hide_a_concept(affine: bool) -> None:
    """Where a column of large numbers is shrunk into Σ, or the mean is added to it, L⁻¹C of the others is tiny."""
    x, sex, _ = sex_and_income()
    x = x + 1e5
    x[:, 5] *= 1e6
    for shrinkage in (True, "correlation", False):
        eraser = LeaceEraser.fit(x, sex, rtol=1e-4, shrinkage=shrinkage, affine=affine)
        assert eraser.rank == 1
        assert certify(eraser, x, sex).whitened_covariance < 1e-7


def test_linear_eraser_is_least_squares_about_zero() -> None:
    """Covers audit C1, by the first-order condition of E‖Px − x‖² over P with PC = 0, where x has a mean."""
    x, z, _ = data()
    x[:, 3] = 2.0  # a constant, which an eraser without intercept may use
    second = x.mT @ x / len(x)
    C = (x - x.mean(0)).mT @ (z - z.mean(0)) / len(x)
    feasible = torch.linalg.svd(C)[0][:, 3:]
    eye = torch.eye(12, dtype=x.dtype)
    edits = []
    for options in ({"rtol": 1e-6}, {}):
        eraser = LeaceEraser.fit(x, z, shrinkage=False, affine=False, **options)
        assert eraser.bias is None
        assert covariance(eraser(x), z) < 1e-11
        gradient = (eraser.P - eye) @ second @ feasible
        assert bool(gradient.abs().max() < 1e-8 * second.abs().max()) == bool(options)
        edits.append(float((eraser(x) - x).square().sum()))
    assert edits[0] < 0.5 * edits[1]


def test_concept_of_most_directions_is_warned_of() -> None:
    """Covers audit C1: more than d classes erase everything."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(4000, 32, generator=g), torch.randint(200, (4000,), generator=g)
    with pytest.warns(UserWarning, match="the concept covaries with 32 directions of x, which has 32: little of x"):
        assert LeaceEraser.fit(x, y, rtol=1e-4).rank == 32


# --- Labels and scales ---


@pytest.mark.parametrize("method", ["leace", "orth"])
@pytest.mark.parametrize("rtol", [None, 1e-6])
@pytest.mark.parametrize("k", [4, 30])
@pytest.mark.filterwarnings("ignore:the concept covaries", "ignore:svd_tol")
def test_labels_give_the_eraser_of_their_one_hot_columns(method: str, rtol: float | None, k: int) -> None:
    x, _, _ = data(n=2000)
    y = torch.randint(k, (2000,), generator=torch.Generator().manual_seed(1))
    y[y == k - 2] = 0  # a class that does not occur
    x[:, 0] += y
    weight = torch.rand(2000, dtype=x.dtype)
    one_hot = torch.nn.functional.one_hot(y, k).double()
    options = {"method": method, "rtol": rtol, "weight": weight}
    torch.testing.assert_close(LeaceEraser.fit(x, y, **options).P, LeaceEraser.fit(x, one_hot, **options).P)


@pytest.mark.filterwarnings("ignore:the concept covaries")
def test_a_million_classes_take_memory_for_their_means_only() -> None:
    """Covers audit, item 9: k² bytes were 8 TB."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(3000, 4, generator=g), torch.arange(3000) * 333
    eraser = LeaceFitter(4, 1_000_000, rtol=1e-4).update(x, y).eraser
    assert eraser.rank == 4
    assert eraser(x).std(0).max() < 1e-6


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the concept covaries")
def test_a_million_classes_of_many_samples_take_twice_the_memory_of_their_means() -> None:
    """Covers audit, item 9: k² bytes were 8 TB. Here: 1.5 million samples, d = 64, in about 10 s and 1 GB of sums."""
    code = """
import resource, time, torch
from efface.erasure.leace import LeaceFitter
g = torch.Generator().manual_seed(0)
x, y = torch.randn(1_500_000, 64, generator=g), torch.randint(1_000_000, (1_500_000,), generator=g)
x[:, :8] += 2 * ((y[:, None] >> torch.arange(8)) & 1)
size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.process_time()
eraser = LeaceFitter(64, 1_000_000, rtol=1e-4).update(x, y).eraser
print(eraser.rank, time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - size)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    rank, seconds, kilobytes = (float(word) for word in done.stdout.split())
    assert rank == 64
    assert seconds < 120
    assert kilobytes < 3 * 64 * 1_000_000 * 8 / 1000


@pytest.mark.parametrize("method", ["leace", "orth"])
@pytest.mark.parametrize("scale", [1e-25, 1e18])
def test_float32_of_extreme_scale_gives_the_same_eraser(method: str, scale: float) -> None:
    """Covers faults B7: x · 1e-25 gave rank 0, and x · 1e18 an error of LAPACK."""
    x, z, y = data(dtype=torch.float32)
    options = {"method": method, "rtol": 1e-4}
    for concept in (z, y):
        eraser = LeaceEraser.fit(x * scale, concept, **options)
        assert eraser.rank == 3
        expected = LeaceEraser.fit(x, concept, **options)(x)
        torch.testing.assert_close(eraser(x * scale) / scale, expected, rtol=1e-4, atol=1e-4)
        assert LeaceEraser.fit(x, concept.float() * scale if concept is z else concept, **options).rank == 3


# --- What is taken as x, z and weights ---


def test_arrays_frames_and_lists_are_taken() -> None:
    """Covers faults C: numpy arrays, pandas frames and lists in place of tensors."""
    x, z, y = data()
    expected = LeaceEraser.fit(x, y)(x)
    arrays = [(x.numpy(), y.numpy()), (x.tolist(), y.tolist()), (pd.DataFrame(x.numpy()), pd.Series(y.numpy()))]
    arrays += [(x.numpy()[::-1][::-1], pd.DataFrame(y.numpy())), (x.numpy(), y.numpy()[:, None])]
    frozen = x.numpy().copy()
    frozen.setflags(write=False)
    for given_x, given_z in [*arrays, (frozen, y)]:
        erased = LeaceEraser.fit(given_x, given_z)(given_x)
        torch.testing.assert_close(erased.double(), expected, rtol=1e-4, atol=1e-4)
    weight = np.arange(len(x)) % 3
    fitter = LeaceFitter(12, 4, dtype=x.dtype).update(x.numpy(), y.numpy(), weight=weight)
    torch.testing.assert_close(fitter.eraser.P, LeaceEraser.fit(x, z, weight=torch.from_numpy(weight).double()).P)
    torch.testing.assert_close(erase_jointly(x.numpy(), [y.numpy()])(x), expected)
    assert certify(LeaceEraser.fit(x, y), x.numpy(), y.tolist()).whitened_covariance < 1e-12


@pytest.mark.parametrize(
    ("z", "message"),
    [
        (["a", "b"] * 200, "z is a list that torch cannot read"),
        (pd.DataFrame({"race": [0, 1] * 200, "age": 1.5}), "z has columns of the dtypes float64, int64: give each"),
        (torch.tensor([0, 10**9] * 200), "z has 400 labels up to 1000000000: number the classes"),
        (torch.tensor([0, -1] * 200), "z has labels from -1 to 0"),
        (torch.zeros(400, 0), "z_dim is 0, but z must have at least one column"),
        (torch.zeros(400, 2, 2), r"z has shape \[400, 2, 2\]|and z \[400, 2, 2\]"),
    ],
)
def test_unfit_concepts_are_refused(z: Any, message: str) -> None:
    """Covers faults A2, C: a frame of unlike columns, labels of 10⁹, no column."""
    x, _, _ = data()
    for fit in (LeaceEraser.fit, lambda x, z: erase_jointly(x, [z, z])):
        with pytest.raises(ValueError, match=f"{message}|concepts.0. has shape|x_dim"):
            fit(x, z)


def test_nothing_to_erase_from_or_with_is_refused() -> None:
    """Covers faults C: d = 0, `erase_jointly([])`, `erase_in_sequence(x, [])`."""
    x, _, y = data()
    with pytest.raises(ValueError, match="x_dim is 0, but x must have at least one column"):
        LeaceEraser.fit(x[:, :0], y)
    for fit in (erase_jointly, erase_in_sequence):
        with pytest.raises(ValueError, match="concepts is empty"):
            fit(x, [])
        with pytest.raises(ValueError, match=r"concepts\[1\] has shape \[399\]"):
            fit(x, [y, y[1:]])
    with pytest.raises(ValueError, match="z has labels from 0 to 3, but they must lie in 0 … 1"):
        LeaceFitter(12, 1, dtype=x.dtype).update(x, y)


def test_shrinkage_towards_a_column_of_large_numbers_does_not_hide_a_concept() -> None:
    """Σ is then that column's variance on the whole diagonal, and L⁻¹C of the other columns all but 0."""
    g = torch.Generator().manual_seed(0)
    sex = torch.arange(500) % 2
    x = torch.randn(500, 12, generator=g, dtype=torch.float64)
    x[:, 0] += 2 * sex
    x[:, 5] = LeaceEraser.fit(x, sex, shrinkage=False)(x)[:, 5] * 1e9
    eraser = LeaceEraser.fit(x, sex, rtol=1e-4)
    assert eraser.rank == 1
    assert certify(eraser, x, sex).whitened_covariance < 1e-6
