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
        (
            torch.zeros(3, 7),
            torch.tensor([[0.0, 0, torch.inf]] * 3),
            None,
            "z has 3 NaN .* row 0, column 2",
        ),
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
