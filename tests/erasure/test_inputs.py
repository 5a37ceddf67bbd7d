"""What each batch eraser takes as features, concept and weights, and what it refuses by name."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tests.erasure.test_rlace import mixture

from efface.erasure.adversarial import solve_adv_game
from efface.erasure.certificate import certify
from efface.erasure.inlp import InlpEraser
from efface.erasure.leace import LeaceEraser
from efface.erasure.oracle import OracleEraser
from efface.erasure.projections import MeanProjectionEraser, PcaEraser, RandomProjectionEraser
from efface.erasure.quadratic import QuadraticEraser
from efface.erasure.rlace import RlaceEraser

FITS: dict[str, Callable[..., Any]] = {
    "inlp": lambda x, z, **options: InlpEraser.fit(x, z, **{"iterations": 1, **options}),
    "mean_projection": MeanProjectionEraser.fit,
    "pca": PcaEraser.fit,
    "random_projection": RandomProjectionEraser.fit,
    "rlace": RlaceEraser.fit,
}
ALL = pytest.mark.parametrize("fit", FITS.values(), ids=FITS.keys())


@ALL
def test_arrays_frames_and_lists_are_taken(fit: Callable[..., Any]) -> None:
    x, y = mixture(n=300)
    weight = torch.rand(300, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    expected = fit(x, y, weight=weight).P
    one_hot = torch.nn.functional.one_hot(y)
    for features in (x.numpy(), pd.DataFrame(x.numpy())):
        for concept in (y.numpy(), y.tolist(), pd.Series(y.numpy()), y[:, None], one_hot, one_hot.double().numpy()):
            torch.testing.assert_close(fit(features, concept, weight=weight.numpy()).P, expected)
    torch.testing.assert_close(fit(x.tolist(), y, weight=weight.tolist()).P.double(), expected, atol=1e-3, rtol=0)
    integers = (100 * x).round().long()
    assert fit(integers, y).proj_left.dtype == torch.float32


@ALL
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": 0}, r"weight has shape \[\], but must be \[600\]"),
        ({"weight": np.ones(5)}, r"weight has shape \[5\], but must be \[600\]"),
        ({"weight": torch.zeros(600)}, "weight has negative or non-finite values, or is all zero"),
        ({"weight": -torch.ones(600)}, "weight has negative"),
        ({"weight": torch.full((600,), torch.nan)}, "weight has negative or non-finite"),
        ({"weight": ["a"] * 600}, "weight is a list that torch cannot read"),
        ({"x": torch.full((600, 12), torch.nan)}, "x has 7200 NaN or infinite values"),
        ({"x": torch.zeros(600, 12, dtype=torch.complex64)}, "x is complex, but must be real"),
        ({"x": torch.zeros(600)}, r"x has shape \[600\], but must be \[n, d\]"),
        ({"x": torch.zeros(0, 12), "z": torch.zeros(0)}, r"x has shape \[0, 12\], but must be"),
        ({"x": [["a"] * 12] * 600}, "x is a list that torch cannot read"),
        ({"rank": 12}, "rank is 12, but must lie in 1 … 11"),
        ({"rank": 0}, "rank is 0, but must lie in 1 … 11"),
    ],
)
def test_unfit_features_weights_and_ranks_are_refused(
    fit: Callable[..., Any], change: dict[str, Any], message: str
) -> None:
    """The raw errors of faults C: weight=0 and weights of a wrong length in INLP, and other types than tensors."""
    x, y = mixture()
    with pytest.raises(ValueError, match=message):
        fit(**{"x": x, "z": y, **change})


@ALL
def test_rank_that_is_no_integer_is_refused(fit: Callable[..., Any]) -> None:
    """Covers faults C: rank=1.5."""
    x, y = mixture()
    with pytest.raises(TypeError, match=r"rank is 1\.5, but must be an integer"):
        fit(x, y, rank=1.5)


@pytest.mark.parametrize("name", ["inlp", "mean_projection", "pca", "rlace"])
@pytest.mark.parametrize(
    ("z", "message"),
    [
        (torch.arange(599) % 3, r"z \[599\]"),
        (torch.zeros(600, 2, 2), r"z \[600, 2, 2\]"),
        (torch.arange(600) % 3 - 1, "z has labels from -1 to 1"),
        (torch.tensor([0, 10**9] * 300), "600 labels up to 1000000000: number the classes"),
        (torch.full((600,), 3), "single class"),
        (["f", "m"] * 300, "z is a list that torch cannot read"),
    ],
)
def test_unfit_labels_are_refused(name: str, z: Any, message: str) -> None:
    """Covers faults C: labels such as 10⁹, and layouts that do not fit."""
    with pytest.raises(ValueError, match=message):
        FITS[name](mixture()[0], z)


@pytest.mark.parametrize(
    ("x_dev", "z_dev"), [(torch.zeros(5, 11), torch.zeros(5)), (torch.zeros(5, 12), torch.full((5,), 0.5))]
)
def test_unfit_dev_data_are_refused(x_dev: torch.Tensor, z_dev: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"give x_dev \[m, 12\], and one label for each row"):
        InlpEraser.fit(*mixture(), iterations=1, x_dev=x_dev, z_dev=z_dev)


# --- Columns of unlike units ---


@pytest.mark.parametrize("name", ["mean_projection", "sal"])
@pytest.mark.parametrize(("dtype", "unit"), [(torch.float64, 1e9), (torch.float32, 1e6)])
def test_column_of_large_numbers_does_not_hide_a_concept_in_one_of_small(name: str, dtype: Any, unit: float) -> None:
    """What is orthogonal depends on the units of x; which directions are significant does not."""
    g = torch.Generator().manual_seed(0)
    y = torch.randint(3, (3000,), generator=g)
    x = torch.randn(3000, 6, generator=g, dtype=torch.float64)
    x[:, 0] += 2 * (y == 1)
    x[:, 1] += 2 * (y == 2)
    x[:, 0] *= unit
    x = x.to(dtype)
    if name == "sal":
        eraser: Any = LeaceEraser.fit(x, y, method="orth", rtol=1e-4)
    else:
        eraser = MeanProjectionEraser.fit(x, y)
    assert eraser.rank == 2
    erased = eraser(x).double()
    for label in range(3):
        shift = (erased[y == label].mean(0) - erased.mean(0)).abs()
        assert float((shift / x.double().std(0)).max()) < (1e-7 if dtype == torch.float64 else 1e-4)


@pytest.mark.parametrize("kind", ["sparse", "csr", "meta"])
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_tensors_without_all_their_values_are_refused(kind: str) -> None:
    g = torch.Generator().manual_seed(0)
    x, z = torch.randn(60, 4, generator=g), torch.arange(60) % 2
    change = {"sparse": lambda t: t.to_sparse(), "csr": lambda t: t.to_sparse_csr(), "meta": lambda t: t.to("meta")}[
        kind
    ]
    odd, numbers = change(x), change(z.float()[:, None])
    eraser = LeaceEraser.fit(x, z)
    uses: dict[str, list[Callable[[], Any]]] = {
        "x": [
            lambda: LeaceEraser.fit(odd, z),
            lambda: eraser(odd),
            lambda: RlaceEraser.fit(odd, z, rank=1),
            lambda: InlpEraser.fit(odd, z, iterations=1),
            lambda: MeanProjectionEraser.fit(odd, z),
            lambda: PcaEraser.fit(odd, z, rank=1),
            lambda: RandomProjectionEraser.fit(odd, rank=1),
            lambda: OracleEraser.fit(odd, z),
            lambda: OracleEraser.fit(x, z)(odd, z),
            lambda: QuadraticEraser.fit(odd, z),
            lambda: QuadraticEraser.fit(x, z)(odd, z),
            lambda: certify(eraser, odd, z),
        ],
        "z": [
            lambda: LeaceEraser.fit(x, numbers),
            lambda: RlaceEraser.fit(x, numbers, rank=1),
            lambda: OracleEraser.fit(x, z)(x, numbers),
            lambda: certify(eraser, x, numbers),
        ],
        "X_train": [lambda: solve_adv_game(odd, z, x, z, out_iters=1, progress=False)],
        "X_dev": [lambda: solve_adv_game(x, z, odd, z, out_iters=1, progress=False)],
        "y_train": [lambda: solve_adv_game(x, numbers, x, z, out_iters=1, progress=False)],
        "y_dev": [lambda: solve_adv_game(x, z, x, numbers, out_iters=1, progress=False)],
    }
    for name, calls in uses.items():
        says = f"{name} is on the device meta, .*: load" if kind == "meta" else rf"{name} .* give {name}\.to_dense"
        for call in calls:
            with pytest.raises(ValueError, match=f"^{says}"):
                call()
