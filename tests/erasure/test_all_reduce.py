"""Statistics of several processes of `torch.distributed` are those of one process that saw all samples."""

import datetime
import multiprocessing
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from tests.erasure.test_leace import data
from torch import Tensor, distributed

from efface.erasure.fitting import Fitter
from efface.erasure.leace import LeaceFitter
from efface.erasure.oracle import OracleFitter
from efface.erasure.quadratic import QuadraticFitter
from efface.erasure.splince import SplinceFitter

KINDS = ("leace", "splince", "oracle", "quadratic")
X, Z, Y = data()
TARGET = (X[:, 0] > 5).long() + (X[:, 1] > 5).long()
ORDER = Y.argsort()
PARTS = {
    "classes": (ORDER[:130], ORDER[130:]),  # one process sees the classes 0 and 1, the other 1, 2 and 3
    "one empty": (ORDER[:0], ORDER),
    "both alike": (ORDER[::2], ORDER[1::2]),
}
WEIGHT = torch.rand(len(X), generator=torch.Generator().manual_seed(3), dtype=X.dtype)


def fitter(kind: str, d: int = 12, k: int = 4, dtype: torch.dtype = torch.float64) -> Fitter[Any]:
    makers: dict[str, Callable[..., Fitter[Any]]] = {
        "leace": LeaceFitter,
        "splince": partial(SplinceFitter, y_dim=3),
        "oracle": OracleFitter,
        "quadratic": QuadraticFitter,
    }
    return makers[kind](d, k, dtype=dtype)


def fed(made: Fitter[Any], rows: Tensor, z: Tensor = Y) -> Fitter[Any]:
    for batch in rows.split(70) if len(rows) else ():
        concepts = (z[batch], TARGET[batch]) if isinstance(made, SplinceFitter) else (z[batch],)
        made.update(X[batch], *concepts, weight=WEIGHT[batch])
    return made


def erased(kind: str, made: Fitter[Any]) -> np.ndarray:
    changed = made.eraser(X) if kind in ("leace", "splince") else made.eraser(X, Y)
    return np.asarray(changed)


def refused(mine: Fitter[Any]) -> str:
    """The error of reducing, after which the statistics are as they were."""
    before = [moments.mean_x.clone() for moments in mine._statistics if moments.count]
    with pytest.raises(ValueError, match="cannot add up") as info:
        mine.all_reduce()
    assert all(map(torch.equal, before, [moments.mean_x for moments in mine._statistics if moments.count]))
    return str(info.value)


def work(rank: int, folder: str, results: Any) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=datetime.timedelta(seconds=30)
    )
    for kind in KINDS:
        for name, parts in PARTS.items():
            results[kind, name, rank] = erased(kind, fed(fitter(kind), parts[rank]).all_reduce())
        wrong = (
            fed(fitter(kind, k=4 + rank), ORDER[:50]),
            fitter(kind, d=12 + rank),
            fitter(kind, dtype=(torch.float32, torch.float64)[rank]),
        )
        results[kind, "refused", rank] = [refused(each) for each in wrong]
    for kind in ("leace", "splince", "oracle"):  # labels here, a matrix there
        part = fed(fitter(kind), PARTS["classes"][rank], (Y, Z)[rank])
        results[kind, "mixed", rank] = erased(kind, part.all_reduce())
    results["targets", rank] = refused(fed(SplinceFitter(12, 4, 3 + rank, dtype=X.dtype), ORDER[:50]))
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    with multiprocessing.get_context("fork").Manager() as manager:
        shared = manager.dict()
        folder = str(tmp_path_factory.mktemp("group"))
        torch.multiprocessing.start_processes(work, (folder, shared), nprocs=2, start_method="fork")
        return dict(shared)


CASES = [(kind, name) for kind in KINDS for name in (*PARTS, "mixed") if (kind, name) != ("quadratic", "mixed")]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_two_processes_equal_one_that_saw_everything(kind: str, name: str, results: dict[Any, Any]) -> None:
    whole = erased(kind, fed(fitter(kind), ORDER))
    for rank in (0, 1):
        np.testing.assert_allclose(results[kind, name, rank], whole, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_processes_with_other_widths_are_refused_on_all_of_them(kind: str, results: dict[Any, Any]) -> None:
    for rank in (0, 1):
        classes, width, dtype = results[kind, "refused", rank]
        name = f"a {kind.capitalize()}Fitter of "
        assert (f"{name}5 x" if kind == "quadratic" else "12 x 5") in classes
        assert f"moments of 13 x {0 if kind == 'quadratic' else 4}" in width
        assert dtype.startswith(f"cannot add up {name}")
        assert re.search(r"float64, .* of process 1, and .*float32, .* of process 0: make the fitters", dtype)


def test_processes_with_targets_of_other_widths_are_refused(results: dict[Any, Any]) -> None:
    for rank in (0, 1):
        assert "moments of 12 x 4" in results["targets", rank]
        assert "moments of 12 x 3" in results["targets", rank]
