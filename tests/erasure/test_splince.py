"""SPLINCE, by what can be proved of it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.erasure.test_leace import covariance
from torch import Tensor
from torch.nn import functional

from efface.erasure.leace import LeaceEraser
from efface.erasure.splince import SpansMeetError, SplinceEraser, SplinceFitter


def data(n: int = 400, d: int = 12, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Features of two correlated labels z and y of four values and of three, all of which move them."""
    g = torch.Generator().manual_seed(0)
    z = torch.randint(4, (n,), generator=g)
    y = torch.where(torch.rand(n, generator=g) < 0.6, z.clamp_max(2), torch.randint(3, (n,), generator=g))
    x = torch.randn(n, d, generator=g, dtype=dtype) @ torch.randn(d, d, generator=g, dtype=dtype)
    for labels in (z, y):
        x = x + 2 * torch.randn(4, d, generator=g, dtype=dtype)[labels]
    return x + 5, z, y


def one_hot(labels: Tensor) -> Tensor:
    return functional.one_hot(labels).double()


def cross(x: Tensor, z: Tensor) -> Tensor:
    """Cov(x, z) in float64."""
    x, z = x.double(), z.double()
    return (x - x.mean(0)).mT @ (z - z.mean(0)) / len(x)


# --- What is guaranteed ---


@pytest.mark.parametrize("shrinkage", ["correlation", True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_concept_is_erased_and_target_kept(shrinkage: Any, affine: bool, dtype: torch.dtype) -> None:
    x, z, y = data(dtype=dtype)
    eraser = SplinceEraser.fit(x, z, y, shrinkage=shrinkage, affine=affine)
    rounding = 100 * torch.finfo(dtype).eps * float(x.abs().max())
    assert eraser.rank == 3
    assert covariance(eraser(x), one_hot(z).to(dtype)) < rounding < 0.1 < covariance(x, one_hot(z).to(dtype))
    assert (cross(eraser(x), one_hot(y)) - cross(x, one_hot(y))).abs().max() < rounding
    leace = LeaceEraser.fit(x, z, shrinkage=shrinkage, affine=affine)
    assert (cross(leace(x), one_hot(y)) - cross(x, one_hot(y))).abs().max() > 0.1
    if affine:
        torch.testing.assert_close(eraser(x).mean(0), x.mean(0))


def test_weighted_covariances_are_the_ones_erased_and_kept() -> None:
    x, z, y = data()
    weight = torch.rand(len(x), generator=torch.Generator().manual_seed(1), dtype=x.dtype) ** 2
    edit = SplinceEraser.fit(x, z, y, weight=weight)(x) - x
    assert covariance(edit, one_hot(y), weight) < 1e-13
    assert covariance(edit + x, one_hot(z), weight) < 1e-13
    assert covariance(edit, one_hot(y)) > 1e-3  # under this weight alone


@pytest.mark.filterwarnings("ignore:the concept covaries")  # of so few columns
@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(3, 40),
    d=st.integers(1, 12),
    widths=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    rank=st.integers(1, 12),
    shrinkage=st.sampled_from(["correlation", True, False]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 1000),
)
def test_guarantees_hold_for_all_shapes_and_ranks_or_the_spans_meet(
    n: int, d: int, widths: tuple[int, int], rank: int, shrinkage: Any, dtype: torch.dtype, seed: int
) -> None:
    """Also where Cov(x) is singular, as it is of fewer samples than columns."""
    g = torch.Generator().manual_seed(seed)
    r = min(rank, d)
    x = torch.randn(n, r, generator=g, dtype=dtype) @ torch.randn(r, d, generator=g, dtype=dtype)
    z, y = (torch.randn(n, k, generator=g, dtype=dtype) for k in widths)
    eps = torch.finfo(dtype).eps
    fitter = SplinceFitter.fit(x, z, y, shrinkage=shrinkage, rtol=10 * eps)
    meet = sum(min(k, n - 1) for k in widths) > min(r, n - 1)  # their dimensions do not fit into that of x
    if meet:
        with pytest.raises(SpansMeetError, match="degrees apart"):
            _ = fitter.eraser
        return
    try:
        eraser = fitter.eraser
    except SpansMeetError:
        assume(False)
    assert eraser.angle is not None
    # Few points in many dimensions whiten to a simplex, at a condition of up to 1/√eps, unless Cov(x) is shrunk.
    error = (1e3 * eps if shrinkage else 30 * eps**0.5) / math.sin(math.radians(eraser.angle)) ** 2
    assert covariance(eraser(x), z) <= error * float(x.abs().max() * z.abs().max())
    assert covariance(eraser(x) - x, y) <= error * float(x.abs().max() * y.abs().max())


def test_edit_is_the_least_in_every_norm() -> None:
    """Against the solution of the Karush–Kuhn–Tucker equations, row by row: min (p − e) Σ (p − e)ᵀ with p C_z = 0 and
    p C_y = e C_y.

    The rows of P − I do not share a constraint, so that these minima are at once that of tr(M (P − I) Σ (P − I)ᵀ) for
    every diagonal M, and by a rotation of x for every positive semi-definite M.
    """
    x, z, y = data()
    sigma = cross(x, x).numpy()
    C_z, C_y = cross(x, one_hot(z)[:, 1:]).numpy(), cross(x, one_hot(y)[:, 1:]).numpy()
    d, k = 12, 5
    system = np.block([[sigma, np.hstack([C_z, C_y])], [np.hstack([C_z, C_y]).T, np.zeros((k, k))]])
    right = np.vstack([sigma, np.zeros((3, d)), C_y.T])
    expected = np.linalg.solve(system, right)[:d].T
    eraser = SplinceEraser.fit(x, z, y, shrinkage=False, rtol=1e-10)
    np.testing.assert_allclose(eraser.P, expected, atol=1e-10)
    np.testing.assert_allclose(expected @ expected, expected, atol=1e-10)  # the least map is a projection


def test_edit_grows_as_one_over_the_sine_of_the_angle() -> None:
    g = torch.Generator().manual_seed(0)
    white = torch.linalg.qr(functional.pad(torch.randn(200, 5, generator=g, dtype=torch.float64), (1, 0), value=1))[0]
    white = white[:, 1:] * 199**0.5  # of mean 0 and covariance I
    mixed = white @ torch.randn(5, 5, generator=g, dtype=torch.float64)
    for angle in (90.0, 30.0, 5.0, 0.2):
        radians = math.radians(angle)
        y = math.cos(radians) * white[:, 0] + math.sin(radians) * white[:, 1]
        for x in (white, mixed):  # the angle does not depend on the units of x
            eraser = SplinceEraser.fit(x, white[:, 0], y, shrinkage=False, min_angle=0.1)
            assert eraser.angle == pytest.approx(angle, rel=1e-6)
        edit = torch.eye(5) - SplinceEraser.fit(white, white[:, 0], y, shrinkage=False, min_angle=0.1).P
        assert float(torch.linalg.matrix_norm(edit, 2)) == pytest.approx(1 / math.sin(radians), rel=1e-6)


def test_weak_directions_of_the_target_change_by_the_tolerance_over_the_sine() -> None:
    g = torch.Generator().manual_seed(0)
    white = torch.linalg.qr(functional.pad(torch.randn(200, 6, generator=g, dtype=torch.float64), (1, 0), value=1))[0]
    white = white[:, 1:] * 199**0.5
    x, z = white[:, :4], white[:, 0]
    y = torch.stack([white[:, 0] + white[:, 1], 0.02 * (white[:, 0] + white[:, 2]) + white[:, 5]], 1)
    for rtol, weak in ((0.05, True), (1e-3, False)):
        eraser = SplinceEraser.fit(x, z, y, rtol=rtol, shrinkage=False)
        assert eraser.angle is not None
        change = float(torch.linalg.matrix_norm(cross(eraser(x) - x, y[:, 1:] / y[:, 1].std()), 2))
        assert (change > 1e-3) == weak
        assert change <= rtol / math.sin(math.radians(eraser.angle))


# --- How it compares with LEACE ---


def test_leace_is_the_case_of_a_target_at_a_right_angle() -> None:
    x, z, y = data()
    leace = LeaceEraser.fit(x, z, rtol=1e-4, shrinkage=False)
    remaining = LeaceEraser.fit(x, y, shrinkage=False, rtol=1e-4)(x)  # does not covary with y
    independent = SplinceEraser.fit(remaining, z, y, shrinkage=False)
    torch.testing.assert_close(independent.P, LeaceEraser.fit(remaining, z, rtol=1e-4, shrinkage=False).P)
    assert independent.angle == 90
    # A target that covaries with x, in directions that LEACE does not touch.
    upright = leace(x)[:, :2]
    erased = SplinceEraser.fit(x, z, upright, shrinkage=False)
    assert erased.angle == pytest.approx(90, abs=1e-4)
    torch.testing.assert_close(erased.P, leace.P)


def test_fresh_linear_head_predicts_the_same_as_after_leace() -> None:
    """Both have one kernel, and so P_leace = P_leace P and P = P P_leace: each result is a linear map of the other."""
    x, z, y = data()
    leace = LeaceEraser.fit(x, z, rtol=1e-4, shrinkage=False)
    splince = SplinceEraser.fit(x, z, y, shrinkage=False)
    torch.testing.assert_close(leace.P @ splince.P, leace.P)
    torch.testing.assert_close(splince.P @ leace.P, splince.P)
    assert (leace.P - splince.P).abs().max() > 0.01
    predictions = []
    for eraser in (leace, splince):
        design = np.c_[np.ones(len(x)), eraser(x).numpy()]
        predictions.append(design @ np.linalg.lstsq(design, one_hot(y).numpy(), rcond=1e-10)[0])
    np.testing.assert_allclose(predictions[0], predictions[1], atol=1e-9)


# --- Batches ---


@pytest.mark.parametrize("as_labels", [True, False])
def test_batches_and_merged_fitters_give_the_eraser_of_all_data(as_labels: bool) -> None:
    x, z, y = data()
    concept, target = (z, y) if as_labels else (one_hot(z), one_hot(y))
    weight = torch.rand(len(x), dtype=x.dtype)
    whole = SplinceEraser.fit(x, one_hot(z), y, weight=weight)
    fitters = [SplinceFitter(12, 4, 3, dtype=x.dtype) for _ in range(2)]
    for start in range(0, len(x), 50):
        rows = slice(start, start + 50)
        fitters[start // 50 % 2].update(x[rows].numpy(), concept[rows], target[rows], weight=weight[rows])
    merged = fitters[0].merge(fitters[1])
    torch.testing.assert_close(merged.eraser.P, whole.P)
    torch.testing.assert_close(merged.sigma_xy, SplinceFitter.fit(x, z, one_hot(y), weight=weight).sigma_xy)
    assert merged.eraser.angle == pytest.approx(whole.angle)
    # Any leading dimensions.
    cubes = SplinceFitter(12, 4, 3, dtype=x.dtype)
    cubes.update(x.view(4, 100, 12), z.view(4, 100), y.view(4, 100, 1), weight=weight.view(4, 100))
    torch.testing.assert_close(cubes.eraser.P, whole.P)


def test_repeated_samples_are_those_of_their_frequency() -> None:
    x, z, y = data(n=60)
    times = torch.arange(60) % 3
    repeated = SplinceEraser.fit(*(v.repeat_interleave(times, dim=0) for v in (x, z, y)))
    torch.testing.assert_close(SplinceEraser.fit(x, z, y, weight=times, weights="frequency").P, repeated.P)


def test_save_and_load(tmp_path: Path) -> None:
    x, z, y = data()
    eraser = SplinceEraser.fit(x, z, y)
    eraser.save(tmp_path / "eraser.safetensors")
    loaded = SplinceEraser.load(tmp_path / "eraser.safetensors")
    torch.testing.assert_close(loaded(x), eraser(x), rtol=0, atol=0)
    with pytest.raises(ValueError, match="LeaceEraser"):
        LeaceEraser.load(tmp_path / "eraser.safetensors")


def test_complex_features() -> None:
    x, z, y = data()
    wide = torch.complex(x, x.flip(1) + one_hot(z) @ torch.ones(4, 12, dtype=x.dtype))
    edit = SplinceEraser.fit(wide, z, y, shrinkage=False)(wide) - wide
    for values, labels in ((edit + wide, z), (edit, y)):
        target = one_hot(labels).to(wide.dtype)
        assert ((values - values.mean(0)).mH @ (target - target.mean(0))).abs().max() / len(x) < 1e-12


# --- Degenerate and bad input ---


def test_constant_concept_changes_nothing_and_constant_target_asks_for_nothing() -> None:
    x, z, y = data()
    same = torch.ones(len(x))
    nothing = SplinceEraser.fit(x, same, y)
    assert (nothing.rank, nothing.angle) == (0, 90)
    assert torch.equal(nothing(x), x)
    leace = LeaceEraser.fit(x, z, rtol=1e-4, shrinkage="correlation")
    torch.testing.assert_close(SplinceEraser.fit(x, z, same).P, leace.P)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_meeting_spans_are_refused(dtype: torch.dtype) -> None:
    x, z, y = data(dtype=dtype)
    message = r"Cov\(x, z\) and Cov\(x, y\) are .* degrees apart where x is white, less than min_angle=0.1"
    for target in (z, z > 1, torch.stack([one_hot(y)[:, 0], one_hot(z)[:, 0]], 1)):
        with pytest.raises(SpansMeetError, match=message):
            SplinceEraser.fit(x, z, target, min_angle=0.1)
    near = SplinceEraser.fit(x, z, y)
    assert near.angle is not None
    with pytest.raises(SpansMeetError, match=f"are {near.angle:.2g} degrees apart .* min_angle={near.angle + 1:g}"):
        SplinceEraser.fit(x, z, y, min_angle=near.angle + 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": lambda y: y[:-1]}, r"y has shape \[399\], but must be labels \[400\] or \[400, 3\]"),
        ({"y": lambda y: y + 1}, "y has labels from 1 to 3, but they must lie in 0 … 2"),
        ({"y": lambda y: one_hot(y) / 0}, "y has 1200 NaN or infinite values"),
        ({"z": lambda z: z + 1}, "z has labels from 1 to 4, but they must lie in 0 … 3"),
        ({"x": lambda x: x[:, 1:]}, r"x has shape \[400, 11\], but its last dimension must be 12"),
        ({"x": lambda x: x / 0}, "x has 4800 NaN or infinite values"),
        ({"weight": lambda _: -torch.ones(400)}, "weight has negative"),
    ],
)
def test_bad_batch_is_named_and_not_added(change: dict[str, Any], message: str) -> None:
    x, z, y = data()
    batch = {"x": x, "z": z, "y": y, "weight": None}
    fitter = SplinceFitter(12, 4, 3, dtype=x.dtype).update(**batch)
    before = fitter.eraser.P
    with pytest.raises(ValueError, match=message):
        fitter.update(**batch | {name: edit(batch[name]) for name, edit in change.items()})
    assert [moments.count for moments in fitter.statistics] == [400, 400]
    torch.testing.assert_close(fitter.eraser.P, before)


def test_bad_options() -> None:
    x, z, y = data()
    with pytest.raises(ValueError, match="y_dim is 0, but y must have at least one column"):
        SplinceFitter(12, 4, 0)
    for angle in (0.0, 90.0, math.nan):
        with pytest.raises(ValueError, match=r"min_angle is .*, but must be at least 0.1 and less than 90 degrees"):
            SplinceFitter(12, 4, 3, min_angle=angle)
    with pytest.raises(ValueError, match="shrinkage is 'all'"):
        SplinceEraser.fit(x, z, y, shrinkage="all")
    with pytest.raises(ValueError, match=r"x has shape \[400, 12\] and y \[399\]: give x \[n, d\], and y"):
        SplinceEraser.fit(x, z, y[:-1])
    with pytest.raises(ValueError, match="y has 400 labels up to 2000000: number the classes"):
        SplinceEraser.fit(x, z, 1_000_000 * y)
    with pytest.raises(ValueError, match="cannot merge moments of 12 x 2 into moments of 12 x 3"):
        SplinceFitter(12, 4, 3).merge(SplinceFitter(12, 4, 2))
