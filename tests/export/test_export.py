"""Whole models in files: that they compute the same, and that nothing is left where they do not."""

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from tests.data import adult_files
from tests.export.networks import QUICK, Small, coloured_digits, train
from torch import Tensor, nn

import efface
from efface.debiased import MODEL_FILE, Debiased
from efface.export import estimator, program
from efface.export.__main__ import export, main
from efface.export.stored import Stored
from efface.export.whole import ExportError
from efface.runs import base, grid
from efface.verify.logits import check_logits

Data = tuple[Tensor, Tensor, Tensor]


@pytest.fixture(scope="module")
def digits() -> Data:
    return coloured_digits()


@pytest.fixture(scope="module")
def debiased(digits: Data) -> efface.DebiasedModel:
    network = train(Small(), *digits[:2])
    return efface.debias(network, digits, "leace", evaluation=QUICK, progress=False, compare=False)


@pytest.fixture(scope="module")
def saved(debiased: efface.DebiasedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return debiased.save(tmp_path_factory.mktemp("saved") / "model")


def run_onnx(file: Path, **inputs: Tensor) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(file)
    return torch.from_numpy(session.run(["logits"], {name: x.numpy() for name, x in inputs.items()})[0])


def test_state_dict_is_for_the_class_that_came_in(debiased: efface.DebiasedModel, digits: Data, tmp_path: Path) -> None:
    own = Small()
    own.load_state_dict(load_file(debiased.export("safetensors", tmp_path / "out") / "model.safetensors"))
    x = digits[0][:30]
    torch.testing.assert_close(own.eval()(x), debiased(x))


def test_onnx_graph_takes_batches_of_any_size(debiased: efface.DebiasedModel, digits: Data, tmp_path: Path) -> None:
    file = debiased.export("onnx", tmp_path / "out") / "model.onnx"
    for n in (1, 3, 50):
        x = digits[0][:n]
        torch.testing.assert_close(run_onnx(file, x=x), debiased(x), atol=1e-5, rtol=1e-5)


def test_program_needs_no_code_of_the_network(saved: Path, debiased: efface.DebiasedModel, digits: Data) -> None:
    x = digits[0][:30]
    torch.save(x, saved.parent / "x.pt")
    code = "import sys, torch; x = torch.load(sys.argv[2])\n"
    code += "torch.save(torch.export.load(sys.argv[1]).module()(x), sys.argv[3])"
    files = [saved / "model.pt2", saved.parent / "x.pt", saved.parent / "y.pt"]
    subprocess.run([sys.executable, "-c", code, *files], check=True, cwd=saved.parent)
    torch.testing.assert_close(torch.load(files[2]), debiased(x))


def test_attribute_is_an_input_where_the_method_needs_it(digits: Data, tmp_path: Path) -> None:
    x, _, a = digits
    network = train(Small(), *digits[:2])
    debiased = efface.debias(network, digits, "qleace", evaluation=QUICK, progress=False, compare=False)
    file = debiased.export("onnx", tmp_path / "onnx") / "model.onnx"
    expected = debiased(x[:20], attribute=a[:20])
    torch.testing.assert_close(run_onnx(file, x=x[:20], attribute=a[:20]), expected, atol=1e-5, rtol=1e-5)
    inputs = Stored.read(tmp_path / "onnx").inputs
    assert list(inputs) == ["x", "attribute"]
    with pytest.raises(ExportError, match="--to torch and --to onnx write the whole"):
        debiased.export("safetensors", tmp_path / "weights")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["onnx"]


def test_saved_model_is_a_run_and_goes_into_every_format(saved: Path, debiased: efface.DebiasedModel) -> None:
    assert efface.load(saved).head.out_features == 2
    for to, name in {"safetensors": "model.safetensors", "torch": "model.pt2", "onnx": "model.onnx"}.items():
        out = export(saved, to)
        assert out == saved / "export" / to
        assert (out / name).is_file()
        inputs, logits = Stored.read(out).inputs, Stored.read(out).logits
        torch.testing.assert_close(debiased(inputs["x"]), logits)
    assert load_file(saved / "export" / "safetensors" / "model.safetensors").keys() == Small().state_dict().keys()


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("pickle", "to is 'pickle', but must be one of safetensors, torch, onnx, transformers, sklearn"),
        ("transformers", "the model is not one of transformers"),
        ("sklearn", "the model is no linear classifier of columns"),
    ],
)
def test_formats_that_do_not_fit_leave_nothing(saved: Path, to: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        export(saved, to, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_folder_that_is_there_is_left_alone(debiased: efface.DebiasedModel, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match="is there already: remove it, or name another folder"):
        debiased.export("torch", tmp_path / "out")
    with pytest.raises(FileExistsError, match="is there already"):
        debiased.save(tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_copy_that_computes_something_else_is_refused(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "copy", ignore=shutil.ignore_patterns("export"))
    file = tmp_path / "copy" / "model.safetensors"
    weights = load_file(file)
    weights["classifier.bias"] += 1e-3
    from safetensors.torch import save_file

    save_file(weights, file)
    with pytest.raises(ExportError, match=r"model\.safetensors gives other logits than the debiased model"):
        export(tmp_path / "copy", "safetensors", tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Moody(nn.Module):
    """Asks what is in its inputs before it decides what to compute."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3 * 28 * 28, 12), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1))
        return self.last(x.relu() if bool((x > 0).any()) else x)


class Odd(Moody):
    """Uses an operator that ONNX has not."""

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.special.modified_bessel_i0(self.first(x.flatten(1))))


def test_network_that_cannot_be_traced_still_gives_its_weights(digits: Data, tmp_path: Path) -> None:
    network = train(Moody(), *digits[:2], epochs=1)
    debiased = efface.debias(network, digits, "leace", evaluation=QUICK, progress=False, compare=False)
    with pytest.raises(ExportError, match=r"cannot be traced by torch\.export .*--to safetensors"):
        debiased.export("torch", tmp_path / "torch")
    with pytest.warns(UserWarning, match="cannot be traced"):
        debiased.save(tmp_path / "saved")
    assert (tmp_path / "saved" / "model.safetensors").is_file()
    with pytest.raises(ExportError, match=r"holds no model\.pt2"):
        export(tmp_path / "saved", "onnx", tmp_path / "onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["saved"]


def test_operator_that_onnx_lacks_is_named(digits: Data, tmp_path: Path) -> None:
    network = Odd()
    with torch.no_grad():
        network.first.weight.mul_(0.1)
    debiased = efface.debias(network, digits, "none", evaluation=QUICK, progress=False, compare=False)
    debiased.export("torch", tmp_path / "torch")
    with pytest.raises(ExportError, match=r"bessel_i0.*--to torch writes the same without ONNX"):
        debiased.export("onnx", tmp_path / "onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["torch"]


@pytest.fixture(scope="module")
def finished(parts_of: Callable[..., grid.GridRun]) -> grid.GridRun:
    run = parts_of("method=leace", "training.epochs=2", "evaluation.bootstrap=0", "evaluation.mlp_probe=false")
    base.execute(run, say=lambda message: None)
    return run


def test_run_of_the_command_line_is_exported(finished: grid.GridRun, tmp_path: Path) -> None:
    out = export(finished.directory, "safetensors", tmp_path / "out", cache_dir=str(finished.cache_dir))
    inputs, logits = Stored.read(out).inputs, Stored.read(out).logits
    dataset = finished.dataset.load(data_dir=Path(), cache_dir=Path(), seed=0)
    model = finished.model(input_shape=dataset.input_shape, n_classes=10)
    model.load_state_dict(load_file(out / "model.safetensors"))
    torch.testing.assert_close(model(inputs["x"]), logits)
    predicted = model(dataset.test.inputs(torch.arange(len(dataset.test)))).argmax(1)
    accuracy = json.loads((finished.directory / "record.json").read_text())["metrics"]["accuracy"]
    assert float((predicted == dataset.test.y).float().mean()) == pytest.approx(accuracy, abs=1e-6)


def test_cleared_cache_is_an_error_that_says_what_to_repeat(finished: grid.GridRun, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        export(finished.directory, "torch", tmp_path / "out", cache_dir=str(tmp_path / "cache"))
    message = str(error.value)
    assert "is not in the cache" in message
    assert "python run.py dataset=colored_mnist_mini model=mlp training=erm method=leace" in message
    assert "training.epochs=2 evaluation.mlp_probe=false evaluation.bootstrap=0 seed=0 overwrite=true" in message
    assert not (tmp_path / "out").exists()


def test_linear_run_on_a_table_is_a_classifier_of_scikit_learn(
    parts_of: Callable[..., grid.GridRun], tmp_path: Path
) -> None:
    from skops import io

    folder = adult_files.write(tmp_path / "data")
    sizes = ("dataset.n_val=200", "dataset.n_pairs=100", "dataset.min_rows=30", "training.epochs=2")
    run = parts_of("dataset=adult", "method=leace", f"data_dir={folder}", "evaluation.bootstrap=0", *sizes)
    base.execute(run, say=lambda message: None)
    places = {"data_dir": str(folder), "cache_dir": str(run.cache_dir)}
    out = export(run.directory, "sklearn", tmp_path / "out", **places)
    assert (out / "preprocessing.skops").is_file()
    assert [check.holds for check in check_logits(out)] == [True, True]  # of the run's model, and of the classifier
    classifier = io.load(out / "model.skops", trusted=io.get_untrusted_types(file=out / "model.skops"))
    dataset = run.dataset.load(data_dir=folder, cache_dir=tmp_path, seed=0)
    assert classifier.classes_.tolist() == list(dataset.classes)
    predicted = classifier.predict(dataset.test.inputs(torch.arange(len(dataset.test))).numpy())
    accuracy = json.loads((run.directory / "record.json").read_text())["metrics"]["accuracy"]
    assert (predicted == [dataset.classes[i] for i in dataset.test.y]).mean() == pytest.approx(accuracy, abs=1e-6)
    with pytest.raises(FileNotFoundError):
        export(run.directory, "sklearn", tmp_path / "other", data_dir=str(tmp_path / "nowhere"))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_directory_without_a_run_is_named(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as exit_:
        main([str(tmp_path / name), "--to", "onnx"])
    assert ("there is no directory" if name == "nothing" else "holds no finished run") in str(exit_.value.code)
    assert capsys.readouterr().out == ""


def test_run_without_a_model_is_named(parts_of: Callable[..., grid.GridRun], tmp_path: Path) -> None:
    run: Any = replace(parts_of("method=unaware", "training.epochs=0"), results_dir=tmp_path)
    base.execute(run, say=lambda message: None)
    with pytest.raises(ValueError, match="holds no model: its run is not_applicable"):
        export(run.directory, "onnx", tmp_path / "out")


def test_map_and_head_are_verified_on_stored_features(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "copy", ignore=shutil.ignore_patterns("export"))
    checks = {check.what: check for check in check_logits(tmp_path / "copy")}
    what = "logits of debiased.safetensors, on 8 stored inputs"
    assert checks[what].holds
    whole = Debiased.load(tmp_path / "copy" / MODEL_FILE)
    with torch.no_grad():
        whole.head.bias += 1e-3 * torch.arange(2)
    whole.save(tmp_path / "copy" / MODEL_FILE)
    assert {check.what for check in check_logits(tmp_path / "copy") if check.holds is False} == {what}


def test_weights_of_a_program_are_not_unpickled(saved: Path, tmp_path: Path) -> None:
    """torch.export.load would fall back on pickle for sample inputs that are something else."""
    other, ran = tmp_path / "model.pt2", tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (ran,)

    buffer = BytesIO()
    torch.save(((Payload(),), {}), buffer)
    with zipfile.ZipFile(saved / "model.pt2") as source, zipfile.ZipFile(other, "w") as target:
        names = source.namelist()
        assert any("sample_inputs" in name for name in names)
        for name in names:
            target.writestr(name, buffer.getvalue() if "sample_inputs" in name else source.read(name))
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        program.load(other)
    assert not ran.exists()


@pytest.mark.parametrize("function", [np.load, pd.read_pickle])
def test_functions_in_a_file_of_skops_are_refused(function: Any, tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer
    from skops.io import dump

    dump(make_pipeline(FunctionTransformer(function), LogisticRegression()), tmp_path / "model.skops")
    with pytest.raises(ExportError, match=rf"{function.__module__.split('.')[0]}.*which is no class of scikit-learn"):
        estimator.load(tmp_path / "model.skops")
