import numpy as np
import pytest
import torch

from efface.moments import Moments


def data(n: int = 500, d: int = 7, k: int = 3, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=g, dtype=dtype) @ torch.randn(d, d, generator=g, dtype=dtype) + 3
    return x, torch.randn(n, k, generator=g, dtype=dtype) + x[:, :k], torch.rand(n, generator=g, dtype=dtype)


def moments(*batches: tuple[torch.Tensor, ...], dtype: torch.dtype = torch.float64) -> Moments:
    m = Moments(batches[0][0].shape[1], batches[0][1].shape[1], dtype=dtype)
    for batch in batches:
        m.update(*batch)
    return m


def assert_same(one: Moments, other: Moments, rtol: float = 1e-12) -> None:
    for name in ("mean_x", "mean_z"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=rtol, atol=rtol)
    torch.testing.assert_close(one.cov_xx(), other.cov_xx(), rtol=rtol, atol=rtol)
    torch.testing.assert_close(one.cov_xz(), other.cov_xz(), rtol=rtol, atol=rtol)
    torch.testing.assert_close(one.cov_zz(), other.cov_zz(), rtol=rtol, atol=rtol)
    assert one.count == other.count
    assert one.n_eff == pytest.approx(other.n_eff)


@pytest.mark.parametrize("weighted", [False, True])
def test_moments_agree_with_numpy(weighted: bool) -> None:
    x, z, w = data()
    m = moments((x, z, w) if weighted else (x, z))
    joint = np.cov(np.hstack([x, z]), rowvar=False, aweights=w.numpy() if weighted else None)
    np.testing.assert_allclose(m.cov_xx(), joint[:7, :7], rtol=1e-10)
    np.testing.assert_allclose(m.cov_xz(), joint[:7, 7:], rtol=1e-10)
    np.testing.assert_allclose(m.cov_zz(), joint[7:, 7:], rtol=1e-10)
    np.testing.assert_allclose(m.mean_x, np.average(x, axis=0, weights=w if weighted else None))


def test_streaming_and_merging_equal_batch() -> None:
    x, z, w = data()
    whole = moments((x, z, w))
    cuts = (slice(0, 1), slice(1, 120), slice(120, 120), slice(120, 500))
    assert_same(moments(*((x[c], z[c], w[c]) for c in cuts)), whole)
    merged = Moments(7, 3, dtype=torch.float64)
    for c in cuts:
        part = Moments(7, 3, dtype=torch.float64)
        part.update(x[c], z[c], w[c])
        merged.merge(part)
    assert_same(merged, whole)


@pytest.mark.parametrize("d", [300, 1100])
def test_wide_x_takes_the_blocked_path(d: int) -> None:
    g = torch.Generator().manual_seed(0)
    x, z = torch.randn(1200, d, generator=g), torch.randn(1200, 2, generator=g)  # several chunks of rows
    np.testing.assert_allclose(moments((x, z), dtype=torch.float32).cov_xx(), np.cov(x, rowvar=False), atol=1e-6)


def test_many_batches_with_a_large_mean_keep_their_covariance() -> None:
    g = torch.Generator().manual_seed(0)
    x = (torch.randn(20_000, 3, generator=g) + 1e4).double().float()
    m = Moments(3, 1)
    for row in x.split(1):
        m.update(row, row[:, :1])
    expected = torch.from_numpy(np.cov(x.double(), rowvar=False))
    torch.testing.assert_close(m.cov_xx(), expected, rtol=1e-6, atol=1e-6)


def test_billion_samples_still_register_a_batch() -> None:
    m = Moments(1, 1)
    m.update(torch.zeros(2, 1), torch.zeros(2, 1), torch.full((2,), 5e8))
    m.update(torch.ones(1, 1), torch.ones(1, 1))
    assert float(m.mean_x) == pytest.approx(1e-9, rel=1e-6)


def test_complex_moments_are_hermitian() -> None:
    x, z, _ = data()
    xc = torch.complex(x, x.flip(1))
    m = moments((xc, z.to(xc.dtype)), dtype=xc.dtype)
    centred = xc - xc.mean(0)
    torch.testing.assert_close(m.cov_xx(), centred.mH @ centred / 499)
    torch.testing.assert_close(m.cov_xx(), m.cov_xx().mH)


def test_half_precision_is_accumulated_in_float32() -> None:
    x, z, _ = data(dtype=torch.float32)
    m = moments((x.half(), z.half()), dtype=torch.float16)
    torch.testing.assert_close(m.cov_xx(), moments((x.half().float(), z.half().float())).cov_xx(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("x", "z", "weight", "message"),
    [
        (torch.zeros(3, 6), torch.zeros(3, 3), None, r"x has shape \[3, 6\]"),
        (torch.zeros(3, 7), torch.zeros(4, 3), None, "x has 3 samples but z has 4"),
        (torch.full((3, 7), torch.nan), torch.zeros(3, 3), None, "x has 21 NaN or infinite values"),
        (torch.zeros(3, 7), torch.tensor([[0.0, 0, torch.inf]] * 3), None, "z has 3 NaN .* row 0, column 2"),
        (torch.zeros(3, 7), torch.zeros(3, 3), torch.ones(2), "weight has shape"),
        (torch.zeros(3, 7), torch.zeros(3, 3), -torch.ones(3), "weight has negative"),
    ],
)
def test_refused_batch_changes_nothing(x: torch.Tensor, z: torch.Tensor, weight: torch.Tensor, message: str) -> None:
    m = moments(data()[:2])
    with pytest.raises(ValueError, match=message):
        m.update(x, z, weight)
    assert_same(m, moments(data()[:2]))


def test_frequency_weights_count_repetitions() -> None:
    x, z, _ = data()
    repeat = torch.arange(len(x)) % 4
    weighted = Moments(7, 3, dtype=torch.float64, weights="frequency")
    weighted.update(x, z, repeat.double())
    repeated = moments((x.repeat_interleave(repeat, 0), z.repeat_interleave(repeat, 0)))
    torch.testing.assert_close(weighted.cov_xx(), repeated.cov_xx())
    assert weighted.n_eff == repeated.n_eff == repeated.count
    with pytest.raises(ValueError, match="make both with the same arguments"):
        weighted.merge(repeated)
    with pytest.raises(ValueError, match="weights is 'counts', but must be 'importance' or 'frequency'"):
        Moments(7, 3, weights="counts")  # type: ignore[arg-type]


def test_too_few_samples_raise() -> None:
    m = Moments(2, 1)
    with pytest.raises(ValueError, match="no samples yet"):
        _ = m.mean_x
    m.update(torch.zeros(1, 2), torch.zeros(1, 1))
    with pytest.raises(ValueError, match="at least two samples"):
        m.cov_xx()


def test_effective_number_of_samples_is_that_of_kish() -> None:
    x, z, _ = data(3)
    assert moments((x, z, torch.tensor([1.0, 2.0, 3.0]))).n_eff == pytest.approx(36 / 14)
    assert moments((x, z)).n_eff == 3
    assert Moments(7, 3).n_eff == 0


def test_error_does_not_grow_with_the_rows_of_one_batch() -> None:
    """Covers audit C1: the chunks of one batch were added in float32, off by 3.5e-6 at 5 million rows."""
    g = torch.Generator().manual_seed(0)
    x = torch.rand(3_000_000, 1, generator=g)
    exact = float(np.var(x.double().numpy(), ddof=1))
    assert float(moments((x, x), dtype=torch.float32).cov_xx()) == pytest.approx(exact, rel=1e-7)


# --- Labels ---


@pytest.mark.parametrize("k", [3, 600])
@pytest.mark.parametrize("weighted", [False, True])
def test_labels_count_as_their_one_hot_columns(k: int, weighted: bool) -> None:
    x, _, w = data()
    g = torch.Generator().manual_seed(1)
    y = torch.randint(k, (500,), generator=g)
    one_hot = torch.nn.functional.one_hot(y, k).double()
    weight = (w,) if weighted else ()
    expected = moments((x, one_hot, *weight))
    counted = Moments(7, k, dtype=torch.float64)
    for rows in (slice(0, 2), slice(2, 300), slice(300, 300), slice(300, 500)):
        counted.update(x[rows], y[rows].int(), *(v[rows] for v in weight))
    assert counted.has_labels
    assert_same(counted, expected)
    # Merged in either order, or followed by a matrix, they are a matrix.
    parts = [moments((x[200:], one_hot[200:], *(v[200:] for v in weight))), Moments(7, k, dtype=torch.float64)]
    parts[1].update(x[:200], y[:200], *(v[:200] for v in weight))
    for one, other in (parts, parts[::-1]):
        both = Moments(7, k, dtype=torch.float64)
        both.merge(one)
        both.merge(other)
        assert not both.has_labels
        assert_same(both, expected, rtol=1e-11)
    parts[1].update(x[200:300], one_hot[200:300], *(v[200:300] for v in weight))
    parts[1].update(x[300:], y[300:], *(v[300:] for v in weight))
    assert_same(parts[1], expected, rtol=1e-11)


def test_class_sums_of_float32_are_as_precise_as_products() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(100_000, 3, generator=g)
    y = (torch.rand(100_000, generator=g) < 0.999).long()
    m = Moments(3, 2)
    m.update(x, y)
    expected = np.cov(x.double().numpy(), y.double().numpy(), rowvar=False)[:3, 3]
    np.testing.assert_allclose(m.cov_xz()[:, 1], expected, atol=1e-9)


def test_a_million_classes_take_memory_for_their_means_only() -> None:
    m = Moments(4, 1_000_000)
    y = torch.arange(2000) * 499
    m.update(torch.randn(2000, 4, generator=torch.Generator().manual_seed(0)), y)
    assert m.cov_xz().shape == (4, 1_000_000)
    sizes = [v.numel() for v in vars(m).values() if isinstance(v, torch.Tensor)]
    assert max(sizes) == 4_000_000


def test_classes_may_be_more_than_the_rows_of_a_chunk_and_fewer_than_those_of_a_batch() -> None:
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(70_000, 300, generator=g), torch.randint(30_000, (70_000,), generator=g)
    m = Moments(300, 30_000, track_xx=False)
    m.update(x, y)
    counts = torch.bincount(y, minlength=30_000)
    torch.testing.assert_close(m.mean_z, counts.double() / 70_000)
    expected = torch.zeros(30_000, 300, dtype=torch.float64).index_add_(0, y, x.double())
    expected -= counts[:, None] * x.double().mean(0)
    torch.testing.assert_close(m.cov_xz(unbiased=False).mT * 70_000, expected, atol=1e-4, rtol=1e-4)
    some = m.cov_xz(columns=slice(10, 20))
    torch.testing.assert_close(some, m.cov_xz()[:, 10:20])


def test_labels_out_of_range_are_refused() -> None:
    m = Moments(7, 3)
    for label in (-1, 3, 10**9):
        with pytest.raises(ValueError, match=rf"z has labels from .*{label}.*, but they must lie in 0 … 2"):
            m.update(torch.zeros(2, 7), torch.tensor([1, label]))
    assert m.count == 0


# --- Scales ---


@pytest.mark.parametrize("track_xx", [True, False])
@pytest.mark.parametrize("concept", ["matrix", "labels"])
@pytest.mark.parametrize("scale", [1e-37, 1e-25, 1e-18, 1.0, 1e18, 1e35])
def test_squares_may_leave_the_range_of_float32(scale: float, concept: str, track_xx: bool) -> None:
    """Covers faults B7."""
    x, z, _ = data(dtype=torch.float32)
    z = z if concept == "matrix" else torch.arange(500) % 3
    plain, scaled = (Moments(7, 3, track_xx=track_xx) for _ in range(2))
    plain.update(x, z)
    for rows in (slice(0, 100), slice(100, 500)):
        scaled.update((x * scale)[rows], z[rows])
    torch.testing.assert_close(scaled.cov_xz() / scale, plain.cov_xz(), rtol=1e-5, atol=1e-5)
    if track_xx:
        torch.testing.assert_close(scaled.cov_xx() / scale / scale, plain.cov_xx(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-25, 1e18])
def test_columns_concepts_and_weights_of_any_scale(scale: float) -> None:
    """Covers faults B7."""
    x, z, w = data(dtype=torch.float32)
    units = torch.ones(7).index_fill(0, torch.tensor([2, 5]), scale)
    plain = moments((x, z, w), dtype=torch.float32)
    scaled = moments((x * units, z * scale, w * scale), dtype=torch.float32)
    assert scaled.n_eff == pytest.approx(plain.n_eff)
    torch.testing.assert_close(scaled.cov_xz() / units[:, None].double() / scale, plain.cov_xz(), rtol=1e-5, atol=1e-5)
    std = units.double()[:, None]
    torch.testing.assert_close(scaled.cov_xx() / std / std.mT, plain.cov_xx(), rtol=1e-5, atol=1e-5)


def test_column_of_two_opposite_tiny_values_is_no_constant() -> None:
    x = torch.tensor([[1e-25], [-1e-25]]).repeat(50, 1)
    assert float(moments((x, x[:, :0]), dtype=torch.float32).cov_xx()) == pytest.approx(1e-50 * 100 / 99)


@pytest.mark.parametrize(
    ("x_scale", "z_scale", "weight", "message"),
    [
        (1e160, 1.0, None, r"x has values of size \de\+16\d in column 0"),
        (1.0, 1e160, None, "z has values so large or small"),
        (1.0, 1.0, 1e152, "z or weight has values so large or small"),
        (1.0, 1.0, 1e200, "weight has values so large"),
    ],
)
def test_refused_scale_changes_nothing(x_scale: float, z_scale: float, weight: float | None, message: str) -> None:
    """Covers faults B7."""
    x, z, w = data()
    m = moments((x, z))
    with pytest.raises(ValueError, match=message):
        m.update(x * x_scale, z * z_scale, None if weight is None else w * weight)
    assert_same(m, moments((x, z)))


def test_values_too_small_for_float64_are_refused() -> None:
    """Covers faults B7."""
    x, z, _ = data()
    m = Moments(7, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"x has values of size \de-1\d\d in column 0"):
        m.update(x * 1e-160, z)
    with pytest.raises(ValueError, match="z has values so large or small"):
        m.update(x, z * 1e-160)
    assert m.count == 0


def test_a_column_that_is_exactly_uncorrelated_is_no_underflow() -> None:
    x = torch.tensor([[1.0, 0.5], [-1.0, 0.25], [1.0, 0.125], [-1.0, 3.0]])
    z = torch.tensor([[1.0], [1.0], [0.0], [0.0]])
    moments = Moments(2, 1, track_xx=False)
    moments.update(x, z)
    assert float(moments.cov_xz()[0, 0]) == 0
    assert float(moments.cov_xz()[1, 0]) != 0


def test_variances_are_the_diagonals_of_the_covariances() -> None:
    x, z, w = data()
    labels = Moments(7, 3, dtype=torch.float64)
    labels.update(x, torch.arange(500) % 3, w)
    scalars = Moments(7, 3, dtype=torch.float64, track_xx=False)
    for rows in (slice(0, 200), slice(200, 500)):
        part = Moments(7, 3, dtype=torch.float64, track_xx=False)
        part.update(x[rows], z[rows], w[rows])
        scalars.merge(part)
    torch.testing.assert_close(scalars.var_x(), moments((x, z, w)).var_x())
    for m in (moments((x, z, w)), labels):
        for unbiased in (True, False):
            torch.testing.assert_close(m.var_x(unbiased=unbiased), m.cov_xx(unbiased=unbiased).diagonal())
            torch.testing.assert_close(m.var_z(unbiased=unbiased), m.cov_zz(unbiased=unbiased).diagonal())
        torch.testing.assert_close(m.bessel * m.cov_xx(unbiased=False), m.cov_xx())


def test_batch_of_weight_zero_adds_nothing() -> None:
    x, z, w = data()
    m = moments((x, z, w))
    m.update(1e30 * x, z, 0 * w)
    torch.testing.assert_close(m.cov_xx(), moments((x, z, w)).cov_xx())
    assert m.n_eff == pytest.approx(moments((x, z, w)).n_eff)
