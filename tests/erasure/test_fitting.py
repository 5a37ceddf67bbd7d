import contextlib
import copy
import multiprocessing
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.erasure.test_leace import covariance, data
from torch import distributed

from efface.erasure.leace import LeaceEraser, LeaceFitter


def test_streaming_equals_batch_and_update_invalidates_the_eraser() -> None:
    x, z, _ = data()
    fitter = LeaceFitter(12, 4, dtype=x.dtype)
    fitter.update(x[:300], z[:300])
    partial = fitter.eraser
    assert fitter.eraser is partial
    fitter.update(x[300:], z[300:])
    torch.testing.assert_close(fitter.eraser.P, LeaceEraser.fit(x, z).P)
    assert not torch.allclose(fitter.eraser.P, partial.P)


def test_any_leading_dimensions_and_dtypes() -> None:
    x, z, _ = data()
    eraser = LeaceEraser.fit(x.view(4, 100, 12).flatten(0, 1), z)
    torch.testing.assert_close(eraser(x.view(4, 100, 12)).flatten(0, 1), eraser(x))
    assert eraser.to(torch.float32)(x.float()).dtype == torch.float32
    assert eraser(x.half()).dtype == torch.float16
    torch.testing.assert_close(eraser(x), x @ eraser.P.mT + eraser.bias @ (torch.eye(12) - eraser.P.mT))


def test_absolute_tolerance_warns_of_directions_that_stay() -> None:
    x, _, _ = data(n=3000)
    g = torch.Generator().manual_seed(2)
    rare = (torch.rand(3000, 1, generator=g) < 0.003).double()
    x = x + rare
    with pytest.warns(UserWarning, match=r"svd_tol=0.05 leaves 1 of 1 concept directions"):
        assert LeaceFitter.fit(x, rare, svd_tol=0.05).eraser.rank == 0
    relative = LeaceFitter.fit(x, rare, rtol=1e-4).eraser
    assert covariance(relative(x), rare) < 1e-13


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "svd"}, "method is 'svd'"),
        ({"svd_tol": 0.0}, "svd_tol is 0.0"),
        ({"rtol": 2.0}, "rtol is 2.0"),
        ({"shrinkage": "lasso"}, "shrinkage is 'lasso'"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LeaceFitter(3, 2, **options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_fitted_in_float32(dtype: torch.dtype) -> None:
    x, z, _ = data(dtype=torch.float32)
    x = (x - x.mean(0)).to(dtype)
    eraser = LeaceEraser.fit(x, z)
    assert eraser.proj_left.dtype == torch.float32
    assert eraser(x).dtype == dtype
    assert covariance(eraser(x.float()), z) < 1e-5


def test_integer_features_are_taken_as_float32() -> None:
    x, z, _ = data()
    x = (10 * x).round().long()
    eraser = LeaceEraser.fit(x, z)
    assert eraser(x).dtype == torch.float32
    assert covariance(eraser(x).double(), z) < 1e-3


def test_merging_equals_batch() -> None:
    x, z, y = data()
    w = torch.rand(len(x), dtype=x.dtype)
    parts = [LeaceFitter(12, 4, dtype=x.dtype).update(x[i::3], y[i::3], weight=w[i::3]) for i in range(3)]
    merged = LeaceFitter(12, 4, dtype=x.dtype)
    assert merged.merge(parts[0]).merge(parts[1]).merge(parts[2]).n == len(x)
    torch.testing.assert_close(merged.eraser.P, LeaceEraser.fit(x, z, weight=w).P)
    with pytest.raises(ValueError, match="cannot merge"):
        merged.merge(LeaceFitter(12, 3))


def _gather(rank: int, folder: str, results: Any) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    x, _, y = data()
    xc = torch.complex(x, x.flip(1))
    fitter, complex_fitter = LeaceFitter(12, 4, dtype=x.dtype), LeaceFitter(12, 4, dtype=xc.dtype)
    if rank == 1:  # the first process has seen nothing, the second in two batches
        for rows in (slice(0, 150), slice(150, 400)):
            fitter.update(x[rows], y[rows])
            complex_fitter.update(xc[rows], y[rows])
    fitter.all_reduce()
    complex_fitter.all_reduce()
    fitter.update(x[:7] * (rank + 1), y[:7]).all_reduce()
    results[rank] = (fitter.eraser.P.numpy(), complex_fitter.eraser.P.numpy(), int(fitter.n))
    distributed.destroy_process_group()


def test_all_reduce_over_two_processes_equals_batch(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Manager() as manager:
        results = manager.dict()
        torch.multiprocessing.start_processes(_gather, (str(tmp_path), results), nprocs=2, start_method="fork")
        (P, Pc, n), (P_other, Pc_other, n_other) = results[0], results[1]
    x, _, y = data()
    np.testing.assert_allclose(Pc, LeaceEraser.fit(torch.complex(x, x.flip(1)), y).P, atol=1e-10)
    np.testing.assert_allclose(Pc, Pc_other, atol=1e-12)
    # Reduced once, both hold all; reduced again, all of that twice, and what each has seen since.
    again = torch.cat([x, x, x[:7], 2 * x[:7]]), torch.cat([y, y, y[:7], y[:7]])
    np.testing.assert_allclose(P, LeaceEraser.fit(*again).P, atol=1e-10)
    np.testing.assert_allclose(P, P_other, atol=1e-12)
    assert n == n_other == 814


def test_failed_update_changes_nothing() -> None:
    x, z, y = data()
    fitter = LeaceFitter.fit(x, z)
    before = fitter.eraser
    bad = x.clone()
    bad[3, 5] = torch.inf
    for args, message in (
        ((bad, z), r"x has 1 NaN or infinite values, the first in row 3, column 5"),
        ((x, z[:-1]), r"z has shape \[399, 4\], but must be labels \[400\] or \[400, 4\], for x \[400, 12\]"),
        ((x[:, 1:], z), r"x has shape \[400, 11\]"),
        ((x, z[:, :3]), r"z has shape \[400, 3\]"),
        ((z, x), "x has shape"),
        ((x, y + 1), "labels from 1 to 4, but they must lie in 0 … 3"),
        ((x, -y), "labels from -3 to 0"),
    ):
        with pytest.raises(ValueError, match=message):
            fitter.update(*args)
    assert fitter.eraser is before
    assert fitter.n == 400


def test_unfit_data_raise() -> None:
    x, z, _ = data()
    with pytest.raises(ValueError, match="at least two samples"):
        _ = LeaceFitter.fit(x[:1], z[:1]).eraser
    with pytest.raises(ValueError, match="no samples yet"):
        _ = LeaceFitter(12, 4).eraser
    with pytest.raises(ValueError, match="give x"):
        LeaceEraser.fit(x[0], z)
    with pytest.raises(ValueError, match="of the same n"):
        LeaceEraser.fit(x, z[:7])
    with pytest.raises(ValueError, match="its last dimension must be 12"):
        LeaceEraser.fit(x, z)(x[:, :5])


@pytest.mark.parametrize(
    ("k", "x_shape", "z", "weight"),
    [
        (1, (20, 10, 12), torch.randn(10, 20), None),
        (5, (40, 12), torch.randn(5, 40), None),
        (3, (40, 12), torch.randn(120), None),
        (3, (40, 12), torch.randn(20, 6), None),
        (3, (40, 12), torch.randn(40), None),
        (3, (40, 12), torch.zeros(1, 40, dtype=torch.int64), None),
        (1, (5, 8, 12), torch.randn(5, 8), torch.ones(8, 5)),
        (1, (40, 12), torch.randn(40), torch.ones(40, 1)),
    ],
)
def test_concept_or_weight_of_another_layout_is_refused(k: int, x_shape: Any, z: Any, weight: Any) -> None:
    """Covers faults A4: they were reshaped, and paired with the wrong rows."""
    fitter = LeaceFitter(12, k)
    with pytest.raises(ValueError, match=r"(z|weight) has shape \[.*\], but must be"):
        fitter.update(torch.randn(x_shape), z, weight=weight)
    assert fitter.n == 0


@pytest.mark.parametrize("concept", ["labels", "matrix"])
def test_any_layout_that_fits_is_paired_with_the_right_rows(concept: str) -> None:
    x, z, y = data()
    w = torch.rand(400, dtype=x.dtype)
    expected = LeaceEraser.fit(x, z, weight=w).P
    shaped = z.view(8, 50, 4) if concept == "matrix" else y.view(8, 50)
    fitter = LeaceFitter(12, 4, dtype=x.dtype).update(x.view(8, 50, 12), shaped, weight=w.view(8, 50))
    torch.testing.assert_close(fitter.eraser.P, expected)
    column = LeaceFitter(12, 4, dtype=x.dtype).update(x, y[:, None].int(), weight=w)
    torch.testing.assert_close(column.eraser.P, expected)


def test_bad_batch_of_extreme_values_leaves_every_sum_unchanged() -> None:
    """Covers faults B7: one batch of such values lost the statistics of those before."""
    x, z, _ = data()
    fitter = LeaceFitter.fit(x, z)
    before = {name: value.clone() for name, value in vars(fitter.moments).items() if isinstance(value, torch.Tensor)}
    for bad_x, bad_z, weight in (
        (x * 1e200, z, None),
        (x, z * 1e200, None),
        (x, z, torch.full((400,), 1e300, dtype=x.dtype)),
    ):
        with pytest.raises(ValueError, match="scale them to about 1 first"):
            fitter.update(bad_x, bad_z, weight=weight)
    for name, value in before.items():
        assert torch.equal(getattr(fitter.moments, name), value), name
    fitter.update(x.float() * 1e25, z)  # what float64 holds is taken
    assert fitter.n == 800


def test_threads_may_share_a_fitter() -> None:
    """Covers faults A3: eight threads lost statistics in one of three runs."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 40, generator=g, dtype=torch.float64)
    y = torch.arange(4000) % 3
    fitter = LeaceFitter(40, 3, dtype=x.dtype)

    def add(i: int) -> None:
        fitter.update(x[i::400], y[i::400])
        if i % 50 == 0 and fitter.n > 100:
            _ = fitter.eraser

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(400)))
    assert fitter.n == 4000
    torch.testing.assert_close(fitter.eraser.P, LeaceEraser.fit(x, y).P)


def test_merge_waits_for_an_update_of_the_other_fitter() -> None:
    x, _, y = data()
    mine, other = LeaceFitter(12, 4, dtype=x.dtype), LeaceFitter(12, 4, dtype=x.dtype).update(x, y)
    entered, proceed = threading.Event(), threading.Event()
    update = other.moments.update

    def slow(*args: Any) -> None:
        entered.set()
        assert proceed.wait(20)
        update(*args)

    other.moments.update = slow  # type: ignore[method-assign]
    with ThreadPoolExecutor(2) as pool:
        updating = pool.submit(other.update, x, y)
        assert entered.wait(20)
        merging = pool.submit(mine.merge, other)
        with pytest.raises(TimeoutError):
            merging.result(0.2)
        proceed.set()
        updating.result(20)
        merging.result(20)
    assert mine.n == 800


def test_fitters_merged_into_each_other_do_not_wait_for_ever() -> None:
    """The second thread holds its own lock when the first asks for it, unless both take the same one first."""
    fitters = [LeaceFitter(2, 2) for _ in range(2)]
    meeting = threading.Barrier(2)

    class Meeting:
        """A lock whose holder first gives the other thread the time to take a lock too."""

        def __init__(self) -> None:
            self.lock = threading.RLock()

        def __enter__(self) -> None:
            self.lock.acquire()
            with contextlib.suppress(threading.BrokenBarrierError):
                meeting.wait(0.2)

        def __exit__(self, *_: object) -> None:
            self.lock.release()

    for fitter in fitters:
        fitter._lock = Meeting()  # type: ignore[assignment]
    threads = [
        threading.Thread(target=one.merge, args=(other,), daemon=True) for one, other in (fitters, fitters[::-1])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)


def test_fitter_merged_into_itself_counts_twice() -> None:
    x, _, y = data()
    fitter = LeaceFitter(12, 4, dtype=x.dtype).update(x, y)
    assert fitter.merge(fitter).n == 800
    torch.testing.assert_close(fitter.eraser.P, LeaceEraser.fit(torch.cat([x, x]), torch.cat([y, y])).P)


def test_fitters_can_be_pickled_and_copied() -> None:
    x, z, y = data()
    fitter = LeaceFitter(12, 4, dtype=x.dtype).update(x[:200], y[:200])
    for other in (pickle.loads(pickle.dumps(fitter)), copy.deepcopy(fitter)):
        torch.testing.assert_close(other.update(x[200:], y[200:]).eraser.P, LeaceEraser.fit(x, z).P)
    assert fitter.n == 200
