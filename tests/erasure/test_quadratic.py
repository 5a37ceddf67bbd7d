from pathlib import Path

import pytest
import torch

from efface.erasure.optimal_transport import is_positive_definite, ot_barycenter, ot_distance, ot_map, ot_midpoint
from efface.erasure.quadratic import QuadraticEditor, QuadraticEraser, QuadraticFitter


def data(k: int = 3, n: int = 900) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    y = torch.arange(n) % k
    x = torch.randn(n, 5, generator=g, dtype=torch.float64)
    for label in range(k):
        mix = torch.randn(5, 5, generator=g, dtype=torch.float64)
        x[y == label] = x[y == label] @ mix + 3 * torch.randn(5, generator=g, dtype=torch.float64)
    return x, y


def cov(x: torch.Tensor) -> torch.Tensor:
    return (x - x.mean(0)).mT @ (x - x.mean(0)) / (len(x) - 1)


@pytest.mark.parametrize("k", [2, 3])
def test_quadratic_eraser_gives_all_classes_one_mean_and_covariance(k: int) -> None:
    x, y = data(k)
    erased = QuadraticEraser.fit(x, y, shrinkage=False)(x, y)
    for label in range(1, k):
        torch.testing.assert_close(erased[y == label].mean(0), erased[y == 0].mean(0))
        torch.testing.assert_close(cov(erased[y == label]), cov(erased[y == 0]), rtol=1e-6, atol=1e-6)


def test_weighted_mean_keeps_the_mean() -> None:
    x, y = data()
    y = torch.where(y == 2, 1, y)  # unequal classes
    weighted = QuadraticEraser.fit(x, y, weighted_mean=True)
    torch.testing.assert_close(weighted(x, y).mean(0), x.mean(0))
    compatible = QuadraticEraser.fit(x, y)
    torch.testing.assert_close(compatible.global_mean, (x[y == 0].mean(0) + x[y == 1].mean(0)) / 2)


def test_editor_reaches_the_moments_of_the_target_and_can_be_undone() -> None:
    x, y = data()
    editor = QuadraticFitter.fit(x, y, shrinkage=False).editor()
    edited = editor(x, y, 1)
    for label in range(3):
        torch.testing.assert_close(edited[y == label].mean(0), x[y == 1].mean(0))
        torch.testing.assert_close(cov(edited[y == label]), cov(x[y == 1]), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(edited[y == 1], x[y == 1])
    back = editor.transport(editor.transport(x[y == 0], 0, 2), 2, 0)
    torch.testing.assert_close(back, x[y == 0])


def test_streamed_merged_and_weighted() -> None:
    x, y = data()
    whole = QuadraticFitter.fit(x, y).eraser
    one, other = (QuadraticFitter(5, 3, dtype=x.dtype).update(x[i::2], y[i::2]) for i in (0, 1))
    torch.testing.assert_close(one.merge(other).eraser.ot_maps, whole.ot_maps)
    repeat = torch.arange(900) % 4
    weighted = QuadraticFitter.fit(x, y, weight=repeat.double(), shrinkage=False)
    repeated = QuadraticFitter.fit(x.repeat_interleave(repeat, 0), y.repeat_interleave(repeat), shrinkage=False)
    torch.testing.assert_close(weighted.mean_x, repeated.mean_x)
    torch.testing.assert_close(weighted.n, repeated.n)
    # Importance weights: Bessel's correction differs from that of repetitions by a factor for each class.
    ratio = weighted.sigma_xx / repeated.sigma_xx
    torch.testing.assert_close(ratio, ratio[:, :1, :1].expand_as(ratio))


def test_save_and_load(tmp_path: Path) -> None:
    x, y = data()
    fitter = QuadraticFitter.fit(x, y)
    fitter.eraser.save(tmp_path / "eraser")
    torch.testing.assert_close(QuadraticEraser.load(tmp_path / "eraser")(x, y), fitter.eraser(x, y))
    with pytest.raises(ValueError, match="is not a saved QuadraticEditor, it holds a saved QuadraticEraser"):
        QuadraticEditor.load(tmp_path / "eraser")


def test_failed_merge_leaves_the_statistics_and_the_eraser_unchanged() -> None:
    """Covers faults B8: a merge of more classes added some of them and then failed."""
    x, y = data()
    fitter = QuadraticFitter.fit(x, y)
    n, eraser = fitter.n.clone(), fitter.eraser
    with pytest.raises(ValueError, match="other was made for 2 classes, but this fitter for 3"):
        fitter.merge(QuadraticFitter.fit(x, y % 2))
    with pytest.raises(ValueError, match="cannot merge moments of 4 x 0"):
        fitter.merge(QuadraticFitter.fit(x[:, :4], y))
    assert torch.equal(fitter.n, n)
    assert fitter.eraser is eraser


def test_integers_and_empty_batches_give_floating_point_results() -> None:
    """Covers faults B8: integer x gave integers, and an empty batch an error of torch.cat."""
    x, y = data()
    whole = (10 * x).round()
    fitter = QuadraticFitter.fit(whole, y)
    eraser, editor = fitter.eraser, fitter.editor()
    torch.testing.assert_close(eraser(whole.long(), y), eraser(whole, y))
    torch.testing.assert_close(editor(whole.long(), y, 1), editor(whole, y, 1))
    assert eraser(x[:0], y[:0]).shape == editor(x[:0], y[:0], 1).shape == (0, 5)
    n = fitter.n.clone()
    assert torch.equal(fitter.update(x[:0], y[:0]).n, n)


def test_bad_input() -> None:
    x, y = data()
    with pytest.raises(ValueError, match=r"labels from 0 to 2, but they must lie in 0 … 1"):
        QuadraticFitter(5, 2, dtype=x.dtype).update(x, y)
    with pytest.raises(ValueError, match=r"z has dtype torch\.float64, but must be integer labels"):
        QuadraticFitter(5, 2).update(x, y.double())
    with pytest.raises(ValueError, match=r"classes \[2\] have fewer than two samples"):
        _ = QuadraticFitter(5, 3, dtype=x.dtype).update(x, y % 2).eraser
    with pytest.raises(ValueError, match="num_classes is 1"):
        QuadraticFitter(5, 1)
    # A refused update leaves every class as it was, also those that came before the bad one.
    fitter = QuadraticFitter.fit(x, y)
    bad = x.clone()
    bad[y == 2] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        fitter.update(bad, y)
    torch.testing.assert_close(fitter.mean_x, QuadraticFitter.fit(x, y).mean_x)


def spd(n: int, d: int = 4) -> torch.Tensor:
    a = torch.randn(n, d, d + 2, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    return a @ a.mT


def test_transport_map_pushes_one_gaussian_to_the_other() -> None:
    K1, K2 = spd(2)
    T = ot_map(K1, K2)
    torch.testing.assert_close(T @ K1 @ T, K2)
    torch.testing.assert_close(T, T.mT)
    assert is_positive_definite(T)
    torch.testing.assert_close(ot_map(K1[None], torch.stack([K1, K2]))[1], T)


def test_distance_is_the_cost_of_the_map() -> None:
    K1, K2 = spd(2)
    T = ot_map(K1, K2)
    eye = torch.eye(4, dtype=K1.dtype)
    cost = ((T - eye) @ K1 @ (T - eye)).trace()
    torch.testing.assert_close(ot_distance(K1, K2), cost.sqrt())
    torch.testing.assert_close(ot_distance(K1, K1), torch.zeros((), dtype=K1.dtype), atol=1e-6, rtol=0)
    torch.testing.assert_close(ot_distance(K1, K2), ot_distance(K2, K1))


def test_barycentre_is_a_fixed_point_and_minimises_the_mean_squared_distance() -> None:
    Ks = spd(3)
    weights = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    S = ot_barycenter(Ks, weights)
    mean_map = (weights[:, None, None] * ot_map(S, Ks)).sum(0)
    torch.testing.assert_close(mean_map, torch.eye(4, dtype=S.dtype), atol=1e-8, rtol=0)
    value = weights @ ot_distance(S, Ks).square()
    g = torch.Generator().manual_seed(0)
    for _ in range(20):
        step = 0.05 * torch.randn(4, 4, generator=g, dtype=torch.float64)
        other = (torch.eye(4) + step) @ S @ (torch.eye(4) + step).mT
        assert weights @ ot_distance(other, Ks).square() > value
    midpoint = ot_midpoint(Ks[0], Ks[1], 0.3, 0.7)
    torch.testing.assert_close(midpoint, ot_barycenter(Ks[:2], torch.tensor([0.3, 0.7])), rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="n > 1"):
        ot_barycenter(Ks[:1])
    with pytest.raises(ValueError, match="one for each matrix"):
        ot_barycenter(Ks, weights[:2])


def test_arrays_columns_and_any_leading_dimensions_are_taken() -> None:
    x, y = data()
    eraser, editor = QuadraticEraser.fit(x.numpy(), y.tolist()), QuadraticFitter.fit(x, y[:, None].int()).editor()
    expected = QuadraticEraser.fit(x, y)(x, y)
    torch.testing.assert_close(eraser(x.numpy(), y.numpy()), expected)
    torch.testing.assert_close(eraser(x.view(9, 100, 5), y.view(9, 100)).flatten(0, 1), expected)
    torch.testing.assert_close(editor(x.view(9, 100, 5), y.view(9, 100), 1).flatten(0, 1), editor(x, y, 1))


def test_unfit_shapes_and_classes_are_named() -> None:
    """Covers faults C4: wrong d in the quadratic eraser."""
    x, y = data()
    fitter = QuadraticFitter.fit(x, y)
    for call in (fitter.update, fitter.eraser, lambda x, y: fitter.editor()(x, y, 1)):
        with pytest.raises(ValueError, match=r"x has shape \[900, 1\], but its last dimension must be 5"):
            call(x[:, :1], y)
        with pytest.raises(ValueError, match=r"z has shape \[899\], but must be \[900\]"):
            call(x, y[1:])
    with pytest.raises(ValueError, match="class 3 is not one of the 3 classes"):
        fitter.eraser.optimal_transport(3, x)
    with pytest.raises(ValueError, match="class -1 is not one of the 3 classes"):
        fitter.editor()(x, y, -1)
    with pytest.raises(ValueError, match="x_dim is 0"):
        QuadraticFitter(0, 2)
    with pytest.raises(ValueError, match="900 labels up to 1000000000"):
        QuadraticFitter.fit(x, y * 500_000_000)
