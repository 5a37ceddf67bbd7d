"""What is wrong with shards, labels or erasers is said with the file, and nothing is left behind."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from safetensors.torch import save_file
from tests.bare import hiding
from tests.embeddings.digits import PARTS, X, Y, run, save_lists, write

from efface.erasure.leace import LeaceEraser


@pytest.fixture
def shards(tmp_path: Path) -> list[str]:
    return write(tmp_path / "in")


@pytest.fixture
def eraser(tmp_path: Path) -> Path:
    LeaceEraser.fit(X, Y).save(tmp_path / "eraser")
    return tmp_path / "eraser"


class Refused:
    """Run a command that must be refused: its status, its message, and no traceback."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *arguments: object) -> str:
        self.capsys.readouterr()
        run(*arguments, status=2)
        message = self.capsys.readouterr().err
        assert message.count("\n") == 1
        return message


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    return Refused(capsys)


def test_shards_of_unlike_width(tmp_path: Path, shards: list[str], refused: Refused) -> None:
    np.save(shards[1], X[PARTS[1], :63].numpy())
    message = refused("fit", *shards, "--out", tmp_path / "out")
    assert message.startswith(f"{shards[1]} has 63 columns, but {shards[0]} has 64")
    assert not (tmp_path / "out").exists()


def test_labels_of_another_length(tmp_path: Path, shards: list[str], refused: Refused) -> None:
    np.save(shards[4], Y[:699].numpy())
    message = refused("fit", *shards, "--out", tmp_path / "out")
    assert f"{shards[4]} has 699 labels, but {shards[0]} has 700 rows" in message


def test_fewer_files_of_labels(tmp_path: Path, shards: list[str], refused: Refused) -> None:
    assert "--labels has 2 files, but there are 3 shards" in refused("fit", *shards[:-1], "--out", tmp_path / "out")
    assert "give the files of the labels with --labels" in refused("fit", *shards[:3], "--out", tmp_path / "out")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_value_that_is_not_finite(
    tmp_path: Path, shards: list[str], eraser: Path, refused: Refused, value: float
) -> None:
    x = X[PARTS[2]].numpy().copy()
    x[1000, 3] = value
    np.save(shards[2], x)
    for arguments in (("fit", *shards), ("apply", eraser, *shards[:3])):
        message = refused(*arguments, "--out", tmp_path / "out")
        assert f"{shards[2]} has NaN or infinite values in row 1000" in message
    assert f"{shards[2]} has NaN" in refused("certify", eraser, *shards)
    assert not (tmp_path / "out" / "2.npy").exists()


def test_label_that_is_nan(tmp_path: Path, refused: Refused) -> None:
    z = Y.double()
    z[1500] = torch.nan
    shards = write(tmp_path / "in", z=z)
    message = refused("fit", *shards, "--out", tmp_path / "out")
    assert f"{shards[6]} has NaN or infinite values in row 799" in message


@pytest.mark.parametrize(("z", "words"), [(Y - 1, "has the label -1"), (Y + 10**9, "labels up to 1000000009")])
def test_labels_that_number_no_classes(tmp_path: Path, z: torch.Tensor, words: str, refused: Refused) -> None:
    shards = write(tmp_path / "in", z=z)
    message = refused("fit", *shards, "--out", tmp_path / "out")
    assert words in message
    assert "number the classes 0 … K − 1" in message


@pytest.mark.parametrize(
    ("z", "words"),
    [
        (Y * 0, "the labels are all 0"),
        (Y * 0 + 3, "the labels are all 3"),
        (Y > -1, "the labels are all 1"),
        (Y * 0 + 0.1, "the labels are the same in all rows"),
        (torch.full((len(Y), 2), 1.5), "the labels are the same in all rows"),
    ],
)
def test_labels_of_one_class(tmp_path: Path, eraser: Path, z: torch.Tensor, words: str, refused: Refused) -> None:
    shards = write(tmp_path / "in", z=z)
    for command in (("fit", *shards, "--out", tmp_path / "out"), ("certify", eraser, *shards)):
        assert f"{words}: there is nothing to erase" in refused(*command)
    assert not (tmp_path / "out").exists()


def test_labels_of_two_kinds(tmp_path: Path, shards: list[str], refused: Refused) -> None:
    np.save(shards[5], Y[PARTS[1]].double().numpy())
    message = refused("fit", *shards, "--out", tmp_path / "out")
    assert f"the labels of {shards[1]} are numbers in 1 columns, but those of {shards[0]} integers" in message


def test_numbers_for_quadratic(tmp_path: Path, refused: Refused) -> None:
    shards = write(tmp_path / "in", z=Y.double())
    message = refused("fit", *shards, "--out", tmp_path / "out", "--method", "quadratic")
    assert "--method quadratic needs integer classes" in message


@pytest.mark.parametrize("kind", ["npy", "safetensors", "lists"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_shard_that_is_cut_short(tmp_path: Path, kind: str, share: float, refused: Refused) -> None:
    shards = write(tmp_path / "in", kind)
    content = Path(shards[2]).read_bytes()
    Path(shards[2]).write_bytes(content[: int(share * len(content))])
    message = refused("fit", *shards, "--out", tmp_path / "out")
    assert message.startswith(f"{shards[2]} is damaged")
    assert "make it again" in message.lower()


def test_parquet_page_that_is_damaged(tmp_path: Path, refused: Refused) -> None:
    shards = write(tmp_path / "in", "lists")
    content = bytearray(Path(shards[2]).read_bytes())
    content[len(content) // 4 : len(content) // 4 + 2000] = bytes(2000)
    Path(shards[2]).write_bytes(content)
    assert f"{shards[2]} is damaged" in refused("fit", *shards, "--out", tmp_path / "out")


def test_shard_that_is_cut_short_while_it_is_read(tmp_path: Path, shards: list[str]) -> None:
    from efface.embeddings.raw import open_npy

    batches = open_npy(Path(shards[2])).batches(256)
    next(batches)
    os.truncate(shards[2], 100_000)
    with pytest.raises(ValueError, match="ends early"):
        list(batches)


def test_files_that_are_no_shards(tmp_path: Path, refused: Refused) -> None:
    out = ("--out", tmp_path / "out")
    assert "there is no file" in refused("fit", tmp_path / "none.parquet", *out)
    for name, reason in (("x.csv", "unknown format: shards are .npy, .safetensors, .parquet"), ("x.npy", "damaged")):
        (tmp_path / name).write_text("1,2")
        assert reason in refused("fit", tmp_path / name, "--labels", tmp_path / name, *out)
    np.savez(tmp_path / "archive", x=X.numpy())
    (tmp_path / "archive.npz").rename(tmp_path / "archive.npy")
    assert "archive of arrays" in refused("fit", tmp_path / "archive.npy", *out)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (X[:9].numpy().T, "by columns: save np.ascontiguousarray"),
        (X[:8].numpy().reshape(2, 4, 64), "shape [2, 4, 64]"),
        (X[:9].numpy().astype(">f4"), "byte order"),
        (X[:9].int().numpy(), "embeddings are floating-point numbers [n, d]"),
        (X[:9, 0].numpy(), "embeddings are floating-point numbers [n, d]"),
        (X[:0].numpy(), "the shards have no rows"),
        (X[:1].numpy(), "the shards have 1 row in all"),
        (X[:9, :0].numpy(), "embeddings of no columns"),
        (X[:9].numpy().astype(object), "is damaged, or no .npy file of numbers"),
        (X[:9].numpy().astype(str), "holds <U32, but must hold numbers: number the classes"),
    ],
    ids=[
        *("Fortran order", "three dimensions", "big-endian", "integers", "a vector", "empty", "one row", "no columns"),
        *("objects", "strings"),
    ],
)
def test_arrays_that_are_no_embeddings(tmp_path: Path, array: np.ndarray, reason: str, refused: Refused) -> None:
    np.save(tmp_path / "x.npy", array)
    np.save(tmp_path / "z.npy", Y[: len(array)].numpy())
    arguments = (tmp_path / "x.npy", "--labels", tmp_path / "z.npy", "--out", tmp_path / "out")
    assert reason in refused("fit", *arguments)


@pytest.mark.parametrize("z", [Y[:9].numpy().astype(np.complex64), np.empty((9, 0))], ids=["complex", "no columns"])
def test_arrays_that_are_no_labels(tmp_path: Path, z: np.ndarray, refused: Refused) -> None:
    np.save(tmp_path / "x.npy", X[:9].numpy())
    np.save(tmp_path / "z.npy", z)
    arguments = (tmp_path / "x.npy", "--labels", tmp_path / "z.npy", "--out", tmp_path / "out")
    assert "z.npy holds labels of dtype" in refused("fit", *arguments)


def test_embeddings_as_their_own_labels(tmp_path: Path, refused: Refused) -> None:
    shards = write(tmp_path / "in", "safetensors")
    assert "--x and --z are both 'x'" in refused("fit", *shards, "--z", "x", "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["x", "z", "id", "id"], "has two columns id: rename one of them"),
        (["x", "x", "z", "id"], "has two columns x: rename one of them"),
        (["x0", "x_0", "z", "id"], "has both x0 and x_0: rename one of them"),
    ],
)
def test_parquet_columns_of_one_name(tmp_path: Path, names: list[str], reason: str, refused: Refused) -> None:
    columns = [pa.array(column) for column in (X[:, 20].numpy(), X[:, 21].numpy(), Y.numpy(), Y.numpy())]
    parquet.write_table(pa.Table.from_arrays(columns, names=names), tmp_path / "x.parquet")
    assert reason in refused("fit", tmp_path / "x.parquet", "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("option", "value"), [("--tolerance", "-1"), ("--tolerance", "nan"), ("--tolerance", "2"), ("--checkpoint", "-1")]
)
def test_options_out_of_range(
    tmp_path: Path, shards: list[str], eraser: Path, option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("certify", eraser, *shards) if option == "--tolerance" else ("fit", *shards, "--out", tmp_path / "out")
    with pytest.raises(SystemExit):
        run(*command, option, value)
    assert f"argument {option}: is {value}, but must be a number from 0 to" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["2", "two"])
def test_number_of_processes_without_torchrun(
    tmp_path: Path, shards: list[str], size: str, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", size)
    assert f"WORLD_SIZE is {size}, which torchrun sets" in refused("fit", *shards, "--out", tmp_path / "out")


def test_names_that_a_file_lacks(tmp_path: Path, refused: Refused) -> None:
    for kind in ("safetensors", "lists"):
        shards = write(tmp_path / kind, kind)
        message = refused("fit", *shards, "--x", "emb", "--out", tmp_path / "out")
        assert f"{shards[0]} has no " in message
        assert "x, z" in message
        assert "with --x or --z" in message


def test_parquet_of_strings_and_missing_values(tmp_path: Path, refused: Refused) -> None:
    path, out = tmp_path / "x.parquet", ("--out", tmp_path / "out")
    lists = [[float(i), 1.0] for i in range(9)]
    for x, z, reason in (
        (lists, ["a"] * 9, "has a column z of string: store numbers"),
        (lists, [0, 1, None] * 3, "z is missing in row 2"),
        ([*lists[:5], None, *lists[6:]], [0, 1, 0] * 3, "x is missing in row 5"),
        ([*lists[:5], [1.0], *lists[6:]], [0, 1, 0] * 3, "or is no list of 2 numbers"),
        ([*lists[:5], [1.0, None], *lists[6:]], [0, 1, 0] * 3, "x lacks a number in row 5"),
    ):
        parquet.write_table(pa.table({"x": x, "z": z}), path)
        assert reason in refused("fit", path, *out)


def test_shard_given_twice(tmp_path: Path, shards: list[str], refused: Refused) -> None:
    assert "is given twice" in refused("apply", tmp_path / "eraser", shards[0], shards[0], "--out", tmp_path / "out")


def test_eraser_of_another_width(tmp_path: Path, shards: list[str], refused: Refused) -> None:
    LeaceEraser.fit(X[:, :9], Y % 2).save(tmp_path / "eraser")
    for command in (("apply", "--out", tmp_path / "out"), ("certify", "--labels", *shards[4:])):
        message = refused(command[0], tmp_path / "eraser", *shards[:3], *command[1:])
        assert "erases from 9 columns, but the shards have 64" in message


def test_files_that_are_no_erasers(tmp_path: Path, shards: list[str], refused: Refused) -> None:
    rest = (*shards[:3], "--out", tmp_path / "out")
    assert "there is no file" in refused("apply", tmp_path / "none", *rest)
    (tmp_path / "text").write_text("no eraser")
    assert "text is damaged, or no safetensors file" in refused("apply", tmp_path / "text", *rest)
    save_file({"x": X}, tmp_path / "other")
    assert "is no eraser, it holds something else" in refused("apply", tmp_path / "other", *rest)


def test_eraser_that_needs_labels(tmp_path: Path, shards: list[str], refused: Refused) -> None:
    run("fit", *shards, "--method", "oracle", "--out", tmp_path / "oracle")
    assert "with --labels" in refused("apply", tmp_path / "oracle", *shards[:3], "--out", tmp_path / "out")


def test_folders_that_would_be_overwritten(tmp_path: Path, shards: list[str], eraser: Path, refused: Refused) -> None:
    before = Path(shards[0]).read_bytes()
    for folder in (tmp_path / "in", tmp_path / "in" / ".." / "in"):
        assert "is the folder of the shards" in refused("apply", eraser, *shards[:3], "--out", folder)
    assert Path(shards[0]).read_bytes() == before
    write(tmp_path / "other")
    assert "was not erased by this command" in refused("apply", eraser, *shards[:3], "--out", tmp_path / "other")
    twins = (shards[0], tmp_path / "other" / "0.npy")
    assert "two shards are called 0.npy" in refused("apply", eraser, *twins, "--out", tmp_path / "out")
    run("apply", eraser, *shards[:3], "--out", tmp_path / "out")
    LeaceEraser.fit(X, Y % 2).save(eraser)
    assert "has shards of another eraser" in refused("apply", eraser, *shards[:3], "--out", tmp_path / "out")
    assert "is one of the shards" in refused("fit", *shards, "--out", shards[0])
    assert "is a folder: name a file" in refused("fit", *shards, "--out", tmp_path)


def test_erased_value_beyond_the_range_of_its_dtype(tmp_path: Path, refused: Refused) -> None:
    shards = write(tmp_path / "in", x=(X * 60000).half())
    LeaceEraser(-torch.eye(64)[:, :1] * 9, torch.eye(64)[36:37]).save(tmp_path / "eraser")
    message = refused("apply", tmp_path / "eraser", *shards[:3], "--out", tmp_path / "out")
    assert "0.npy: an erased value is beyond the range of torch.float16" in message


def test_full_disk(tmp_path: Path, shards: list[str], eraser: Path, refused: Refused) -> None:
    lists, out = tmp_path / "lists", tmp_path / "out"
    lists.mkdir()
    save_lists(lists / "x.parquet", X, Y)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for arguments in (
        ("apply", eraser, *shards[:3], "--out", out),
        ("apply", eraser, lists / "x.parquet", "--out", out / "lists"),
        ("fit", *shards, "--out", out / "fitted", "--method", "quadratic"),
        ("fit", *shards, "--out", out / "fitted", "--checkpoint", "0"),
    ):
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        try:
            message = refused(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert "File too large" in message
        assert "free some space, or choose another place with --out" in message
    names = {path.name for path in out.rglob("*") if path.is_file()}
    assert names == {"erased_by.json", ".erased_by.lock", ".fitted.lock"}


def test_parquet_without_pyarrow(tmp_path: Path) -> None:
    shards = write(tmp_path / "in", "lists")
    code = "import sys; from efface.embeddings.__main__ import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["fit", *shards, "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", hiding() + code, *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert "a parquet file needs pyarrow: pip install 'efface[embeddings]'" in done.stderr
