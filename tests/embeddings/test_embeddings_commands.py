"""`python -m efface.embeddings` does to files what the erasers do to tensors, in every format."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from safetensors import safe_open
from tests.embeddings.digits import FORMATS, PARTS, X, Y, read, run, write

import efface
from efface.embeddings import shards as streams
from efface.erasure.affine import AffineEraser
from efface.erasure.leace import LeaceEraser
from efface.erasure.oracle import OracleEraser
from efface.erasure.quadratic import QuadraticEraser, QuadraticFitter
from efface.runs.provenance import PeakMemory

TOLERANCES = {torch.float16: 2e-3, torch.float32: 1e-5, torch.float64: 1e-12}
FITTED = {"rtol": 1e-4, "shrinkage": "correlation"}


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_MOST_ROWS", 256)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_fit_and_apply_equal_those_of_tensors(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    x = X.to(dtype)
    shards = write(tmp_path / "in", kind, x)
    run("fit", *shards, "--out", tmp_path / "eraser")
    whole = LeaceEraser.fit(x, Y, **FITTED)
    saved = LeaceEraser.load(tmp_path / "eraser")
    assert saved.proj_left.dtype == whole.proj_left.dtype
    torch.testing.assert_close(saved(x), whole(x), rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype])
    run("apply", tmp_path / "eraser", *shards, "--out", tmp_path / "out")
    for i, rows in enumerate(PARTS):
        erased = read(tmp_path / "out" / f"{i}{FORMATS[kind][0]}", kind)
        expected = saved(x[rows].to(saved.P.dtype)).to(dtype)
        assert erased.dtype == dtype
        torch.testing.assert_close(erased, expected, rtol=1e-3 if dtype == torch.float16 else 1e-5, atol=1e-5)


NEED_LABELS = ("OracleEraser", "QuadraticEraser")
SMALL = {
    "IgbpEraser": {"iterations": 2, "width": 8},
    "ObliviatorEraser": {"iterations": 1, "width": 8, "features": 50, "steps": 5},
}
"""Options of those that train networks."""


@pytest.mark.parametrize("name", sorted(name for name in efface.__all__ if name.endswith("Eraser")))
def test_saved_eraser_of_any_kind_is_applied(tmp_path: Path, name: str) -> None:
    kind = getattr(efface, name)
    shards = write(tmp_path / "in", "npy")
    if issubclass(kind, AffineEraser):
        saved, shards = kind(**LeaceEraser.fit(X, Y).tensors()), shards[: len(PARTS)]
        expected = saved(X)
    else:
        saved = kind.fit(X, Y, **SMALL.get(name, {}))
        expected = saved(X, Y) if name in NEED_LABELS else saved(X)
        shards = shards if name in NEED_LABELS else shards[: len(PARTS)]
    saved.save(tmp_path / "eraser")
    run("apply", tmp_path / "eraser", *shards, "--out", tmp_path / "out")
    erased = torch.cat([read(tmp_path / "out" / f"{i}.npy", "npy") for i in range(len(PARTS))])
    torch.testing.assert_close(erased, expected, rtol=0, atol=1e-4)


def test_bfloat16_is_taken_from_safetensors_and_stays(tmp_path: Path) -> None:
    x = X.bfloat16()
    shards = write(tmp_path / "in", "safetensors", x)
    run("fit", *shards, "--out", tmp_path / "eraser")
    run("apply", tmp_path / "eraser", *shards, "--out", tmp_path / "out")
    saved = LeaceEraser.load(tmp_path / "eraser")
    erased = torch.cat([read(tmp_path / "out" / f"{i}.safetensors", "safetensors") for i in range(3)])
    torch.testing.assert_close(erased, saved(x.float()).bfloat16(), rtol=2**-7, atol=1e-5)
    assert efface.certify(saved, x.float(), Y).whitened_covariance < 1e-4


def test_everything_else_in_a_shard_is_copied(tmp_path: Path) -> None:
    for kind in ("safetensors", "lists"):
        shards = write(tmp_path / kind, kind)
        run("fit", *shards, "--out", tmp_path / f"{kind}-eraser")
        run("apply", tmp_path / f"{kind}-eraser", *shards, "--out", tmp_path / f"{kind}-out")
    for i, rows in enumerate(PARTS):
        with safe_open(tmp_path / "safetensors-out" / f"{i}.safetensors", "pt") as file:
            assert file.metadata() == {"by": "us"}
            assert sorted(file.keys()) == ["a", "x", "z", "zz"]
            assert torch.equal(file.get_tensor("a"), torch.arange(len(X[rows])))
            assert torch.equal(file.get_tensor("z"), Y[rows])
            assert torch.equal(file.get_tensor("zz"), torch.ones(3))
        before, after = (parquet.ParquetFile(tmp_path / name / f"{i}.parquet") for name in ("lists", "lists-out"))
        assert after.schema_arrow == before.schema_arrow
        assert after.metadata.num_row_groups == before.metadata.num_row_groups
        assert after.metadata.row_group(0).column(0).compression == "ZSTD"
        assert after.read(["id", "z"]) == before.read(["id", "z"])


def test_every_method_saves_its_eraser(tmp_path: Path) -> None:
    shards = write(tmp_path / "in", "safetensors")
    for method in ("orth", "oracle", "quadratic"):
        run("fit", *shards, "--method", method, "--out", tmp_path / method)
        run("apply", tmp_path / method, *shards, "--out", tmp_path / f"{method}-out")
        run("certify", tmp_path / method, *shards, "--tolerance", "1e-4")
    orth, oracle = LeaceEraser.load(tmp_path / "orth"), OracleEraser.load(tmp_path / "oracle")
    torch.testing.assert_close(orth(X), LeaceEraser.fit(X, Y, method="orth", **FITTED)(X), rtol=0, atol=1e-5)
    torch.testing.assert_close(oracle(X, Y), OracleEraser.fit(X, Y)(X, Y), rtol=0, atol=1e-5)
    quadratic = QuadraticFitter.fit(X, Y, weighted_mean=True).eraser
    expected, saved = quadratic(X, Y), QuadraticEraser.load(tmp_path / "quadratic")
    torch.testing.assert_close(saved(X, Y), expected, rtol=0, atol=1e-3)
    erased = [read(tmp_path / "oracle-out" / f"{i}.safetensors", "safetensors") for i in range(3)]
    torch.testing.assert_close(torch.cat(erased), oracle(X, Y), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "z",
    [
        Y % 2,
        (Y % 2).bool(),
        (Y % 2)[:, None],
        Y.double(),
        torch.stack([Y % 2, Y // 5], 1),
        torch.stack([Y, -(Y**2)], 1).float(),
    ],
    ids=["binary", "boolean", "one column", "numbers", "columns of integers", "columns of numbers"],
)
def test_labels_may_be_what_the_erasers_take(tmp_path: Path, z: torch.Tensor) -> None:
    x = X.double()
    shards = write(tmp_path / "in", "safetensors", x, z)
    run("fit", *shards, "--out", tmp_path / "eraser")
    expected = LeaceEraser.fit(x, z, **FITTED)
    saved = LeaceEraser.load(tmp_path / "eraser")
    assert saved.rank == expected.rank == (2 if z.ndim == 2 and z.shape[1] == 2 else 1)
    torch.testing.assert_close(saved(x), expected(x), rtol=0, atol=1e-10)
    run("certify", tmp_path / "eraser", *shards)


def test_one_numbered_column_is_a_matrix(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"x_0": X[:, 20].numpy(), "z0": Y.double().numpy()}), tmp_path / "x.parquet")
    run("fit", tmp_path / "x.parquet", "--out", tmp_path / "eraser")
    run("apply", tmp_path / "eraser", tmp_path / "x.parquet", "--out", tmp_path / "out")
    erased = parquet.read_table(tmp_path / "out" / "x.parquet")
    np.testing.assert_allclose(erased["x_0"].to_numpy(), X[:, 20].mean(), rtol=1e-5)
    np.testing.assert_array_equal(erased["z0"].to_numpy(), Y)


def test_names_choose_tensors(tmp_path: Path) -> None:
    shards = write(tmp_path / "in", "safetensors")
    run("fit", *shards, "--x", "x", "--z", "a", "--out", tmp_path / "eraser", "--method", "oracle")
    assert OracleEraser.load(tmp_path / "eraser").coef.shape == (64, 1096)


def test_certificate_is_that_of_tensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = write(tmp_path / "in")
    run("fit", *shards, "--out", tmp_path / "eraser")
    capsys.readouterr()
    run("certify", tmp_path / "eraser", *shards, "--json")
    facts = json.loads(capsys.readouterr().out)
    whole = efface.certify(lambda x: x, X, Y)
    assert facts["passed"] is True
    assert facts["erased"]["whitened_covariance"] < 1e-5
    assert facts["unerased"]["whitened_covariance"] == pytest.approx(whole.whitened_covariance, rel=1e-9)
    assert facts["unerased"]["linear_gain"] == pytest.approx(whole.linear_gain, rel=1e-9)
    assert (facts["erased"]["n"], facts["erased"]["d"]) == X.shape
    run("certify", tmp_path / "eraser", *shards)
    assert "passed: whitened covariance <= 0.001" in capsys.readouterr().out


def test_certificate_above_its_tolerance_is_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards, others = write(tmp_path / "in"), write(tmp_path / "others", z=Y % 2)
    run("fit", *others, "--out", tmp_path / "eraser")
    run("certify", tmp_path / "eraser", *others)
    run("certify", tmp_path / "eraser", *shards, status=1)
    assert "NOT passed: whitened covariance > 0.001" in capsys.readouterr().out


def test_rounding_of_what_apply_writes_is_certified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = write(tmp_path / "in", "safetensors", X.bfloat16())
    run("fit", *shards, "--out", tmp_path / "eraser")
    run("apply", tmp_path / "eraser", *shards, "--out", tmp_path / "out")
    capsys.readouterr()
    run("certify", tmp_path / "eraser", *shards, "--json", "--tolerance", "1e-2")
    facts = json.loads(capsys.readouterr().out)
    erased = torch.cat([read(tmp_path / "out" / f"{i}.safetensors", "safetensors") for i in range(3)])
    whole = efface.certify(lambda x: erased.double(), X.bfloat16().double(), Y)
    assert facts["erased"]["whitened_covariance"] == pytest.approx(whole.whitened_covariance, rel=1e-6)
    assert whole.whitened_covariance > 1e-5


@pytest.mark.parametrize("command", ["fit", "apply", "certify"])
def test_memory_does_not_grow_with_a_shard(tmp_path: Path, command: str) -> None:
    """A shard of 128 MB, a hole in its file but for one row."""
    n, d = 500_000, 128
    LeaceEraser.fit(torch.eye(d)[:2], torch.tensor([0, 1]), rtol=1e-4).save(tmp_path / "eraser")
    np.save(tmp_path / "z.npy", np.arange(n) % 2)
    x = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float16, shape=(n, d))
    x[1] = 1
    del x
    labels = ("--labels", tmp_path / "z.npy")
    arguments = {
        "fit": ("fit", tmp_path / "x.npy", *labels, "--out", tmp_path / "fitted"),
        "apply": ("apply", tmp_path / "eraser", tmp_path / "x.npy", "--out", tmp_path / "out"),
        "certify": ("certify", tmp_path / "eraser", tmp_path / "x.npy", *labels, "--tolerance", "1"),
    }[command]
    memory = PeakMemory("cpu")
    before = memory.bytes()
    run(*arguments)
    assert memory.bytes() - before < 1e8


def test_shards_without_rows_are_copied(tmp_path: Path) -> None:
    shards = write(tmp_path / "in")
    np.save(tmp_path / "in" / "none.npy", X[:0].numpy())
    np.save(tmp_path / "in" / "none-labels.npy", Y[:0].numpy())
    end = shards.index("--labels")
    more = [*shards[:end], tmp_path / "in" / "none.npy", *shards[end:], tmp_path / "in" / "none-labels.npy"]
    run("fit", *shards, "--out", tmp_path / "eraser")
    run("fit", *more, "--out", tmp_path / "same")
    assert (tmp_path / "same").read_bytes() == (tmp_path / "eraser").read_bytes()
    run("apply", tmp_path / "eraser", *more, "--out", tmp_path / "out")
    assert np.load(tmp_path / "out" / "none.npy").shape == (0, 64)
