"""A network of one's own runs on the grid as it is; what is wrong with it is named."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file, save_model
from tests.conftest import CONF
from torch import nn
from torch.nn import functional

from efface.data.base import Dataset
from efface.models import factory
from efface.models.custom import Custom
from efface.models.last_layer import HeadError
from efface.models.wrapped import unwrap
from efface.record import Record
from efface.runs import base
from efface.runs.grid import GridRun

QUIET: dict[str, Any] = {"say": lambda message: None}
CHEAP = ("evaluation.mlp_probe=false", "evaluation.bootstrap=0", "evaluation.probe=false")
SHAPE = (3, 28, 28)
SOURCE = """
from tests.conftest import CONF
from torch import nn

class Net(nn.Module):
    def __init__(self, outputs=10, width=32, soft=False):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(2352, width), nn.ReLU(), nn.Dropout(0.5))
        self.fc = nn.Linear(width, outputs)
        self.soft = soft

    def forward(self, x):
        y = self.fc(self.body(x))
        return y.softmax(1) if self.soft else y

def build(**options):
    return Net(**options)

def tied():
    net = Net()
    net.twin = net.fc
    return net

def broken():
    raise RuntimeError("out of paint")

def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))

def quits():
    raise SystemExit(0)

weights = 3
nothing = dict
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a package of networks, which is the current one."""
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "__init__.py").write_text("")
    (tmp_path / "nets" / "small.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in [
        name for name in sys.modules if name.partition(".")[0] in ("nets", "needy", "torn", "script", "network")
    ]:
        del sys.modules[name]
    factory._digest.cache_clear()


def trained(data: Dataset, **options: Any) -> nn.Module:
    """A network that was trained by other code than ours."""
    torch.manual_seed(0)
    net: nn.Module = factory.build("nets.small:build", options)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(3):
        for rows in torch.randperm(len(data.train)).split(128):
            logits = net(data.train.inputs(rows))
            y = data.train.y[rows]
            single = logits.shape[1] == 1
            loss = (
                functional.binary_cross_entropy_with_logits(logits[:, 0], y.float())
                if single
                else functional.cross_entropy(logits, y)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


@torch.no_grad()
def accuracy(net: nn.Module, data: Dataset) -> float:
    logits = net(data.test.inputs(torch.arange(len(data.test))))
    predictions = logits.argmax(1) if logits.shape[1] > 1 else (logits[:, 0] > 0).long()
    return float((predictions == data.test.y).double().mean())


def options_of(file: Path) -> tuple[str, ...]:
    return ("model=custom", "model.factory=nets.small:build", f"model.weights={file}", "training=none", *CHEAP)


def test_network_runs_as_it_is_and_goes_back_debiased(
    folder: Path, parts_of: Callable[..., GridRun], mini: Dataset
) -> None:
    net = trained(mini)
    save_file(net.state_dict(), folder / "net.safetensors")
    options = (*options_of(folder / "net.safetensors"), "evaluation.probe=true")
    record = base.execute(parts_of(*options), **QUIET)
    assert record.metrics["accuracy"] == pytest.approx(accuracy(net, mini), abs=1e-6)
    assert record.info["training"] == {"best_epoch": -1, "history": []}
    assert record.config["model"]["factory"] == "nets.small:build"
    assert "model" not in record.run["cache_hit"]
    parts = parts_of(*options, "method=leace")
    erased = base.execute(parts, **QUIET)
    assert erased.metrics["probe_information"] < 0.1 < record.metrics["probe_information"]
    assert erased.info["head"] == "kept"
    model = parts.model(input_shape=SHAPE, n_classes=10)
    factory.build("nets.small:build", {}).load_state_dict(unwrap(model).state_dict())


def test_one_logit_serves_two_classes(folder: Path, parts_of: Callable[..., GridRun]) -> None:
    two = parts_of("dataset.classes=[3,8]").dataset.load(data_dir=Path(), cache_dir=Path(), seed=0)
    net = trained(two, outputs=1)
    torch.save({"state_dict": net.state_dict()}, folder / "net.pt")
    parts = parts_of(*options_of(folder / "net.pt"), "model.arguments={outputs: 1}", "dataset.classes=[3,8]")
    record = base.execute(parts, **QUIET)
    assert record.metrics["accuracy"] == pytest.approx(accuracy(net, two), abs=1e-6)


@pytest.mark.slow
def test_resnet18_of_torchvision_runs_as_it_is(parts_of: Callable[..., GridRun], tmp_path: Path) -> None:
    from torchvision.models import resnet18

    torch.manual_seed(0)
    save_file(resnet18(num_classes=10).state_dict(), tmp_path / "net.safetensors")
    parts = parts_of(
        *("model=custom", "model.factory=torchvision.models:resnet18", "model.arguments={num_classes: 10}"),
        *(f"model.weights={tmp_path / 'net.safetensors'}", "training=none", *CHEAP),
    )
    record = base.execute(parts, **QUIET)
    assert record.info["d"] == 512


def test_changed_file_is_another_run(folder: Path) -> None:
    net = factory.build("nets.small:build", {})
    prints = set()
    for value in (0.0, 1.0):
        nn.init.constant_(net.fc.bias, value)
        save_file(net.state_dict(), folder / "net.safetensors")
        prints.add(Custom(factory="nets.small:build", weights="net.safetensors").fingerprint())
    assert len(prints) == 2
    source = Custom(factory="nets.small:build")
    before, code = source.fingerprint(), source.code()
    (folder / "nets" / "small.py").write_text(SOURCE + "\n# another\n")
    assert (source.fingerprint(), source.code()) == (before, code)  # this process runs what it has imported
    del sys.modules["nets.small"]
    factory._digest.cache_clear()
    assert source.fingerprint() != before
    assert source.code() != code


def test_network_that_is_not_trained_is_refused_as_it_is(folder: Path, parts_of: Callable[..., GridRun]) -> None:
    own = ("model=custom", "model.factory=nets.small:build", "training=none", *CHEAP)
    with pytest.raises(ValueError, match="training=none uses the model as it is, but the head of model=custom"):
        base.execute(parts_of(*own), **QUIET)
    assert base.execute(parts_of(*own, "model.pretrained=true"), **QUIET).status == "done"
    with pytest.raises(ValueError, match="the head of model=mlp has random weights"):
        base.execute(parts_of("training=none"), **QUIET)


def test_random_network_can_be_trained(folder: Path, parts_of: Callable[..., GridRun]) -> None:
    parts = parts_of("model=custom", "model.factory=nets.small:build", *CHEAP, "training.epochs=3")
    assert base.execute(parts, **QUIET).info["training"]["history"][-1]["accuracy"] > 0.5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nets.small", "factory is 'nets.small', but must be package.module:function"),
        ("nets.none:build", "there is no module nets.none, neither in the current folder .* nor installed"),
        ("nine.small:build", "there is no module nine, neither"),
        ("nets.small:biuld", r"nets.small \(.*small.py\) has no biuld: did you mean build"),
        ("nets.small:weights", "nets.small:weights is a int, which cannot be called"),
        ("nets.small:nothing", "nets.small:nothing returns a dict, but must return a torch.nn.Module"),
        ("nets.small:broken", r"nets.small:broken failed \(RuntimeError: out of paint\)"),
        ("nets.small:lazy", "nets.small:lazy returns layers that have no weights yet"),
        ("nets.small:quits", r"nets.small:quits failed \(SystemExit: 0\)"),
        ("script:build", r"script cannot be imported \(SystemExit: 0\)"),
        ("needy:build", "needy cannot be imported, it needs absent: install it"),
        ("torn:build", r"torn cannot be imported \(SyntaxError"),
    ],
)
def test_factory_that_makes_no_network_is_named(folder: Path, name: str, message: str) -> None:
    (folder / "needy.py").write_text("import absent")
    (folder / "torn.py").write_text("def build(:")
    (folder / "script.py").write_text("raise SystemExit(0)")
    with pytest.raises(factory.FactoryError, match=message):
        Custom(factory=name)(input_shape=SHAPE, n_classes=10)


def test_weights_that_do_not_fit_are_named(folder: Path) -> None:
    state = factory.build("nets.small:build", {}).state_dict()
    wrong = {"fc.weight": torch.zeros(7, 32), "fc.bias": state["fc.bias"], "body.1.weight": state["body.1.weight"]}
    save_file({**wrong, "extra": torch.zeros(1)}, folder / "net.safetensors")
    with pytest.raises(
        ValueError,
        match=r"another network than nets.small:build: 1 missing: body.1.bias; 1 unexpected: extra; 1 of other shapes: "
        r"fc.weight \[7, 32\] in place of \[10, 32\]",
    ):
        Custom(factory="nets.small:build", weights="net.safetensors")(input_shape=SHAPE, n_classes=10)
    torch.save([1], folder / "net.pt")
    with pytest.raises(ValueError, match=r"^weights: .*net.pt holds list"):
        Custom(factory="nets.small:build", weights="net.pt")(input_shape=SHAPE, n_classes=10)
    with pytest.raises(FileNotFoundError, match=r"weights: there is no file .*none.pt"):
        Custom(factory="nets.small:build", weights="none.pt").fingerprint()


def test_weights_that_layers_share_need_be_there_once(folder: Path) -> None:
    net = factory.build("nets.small:tied", {})
    save_model(net, str(folder / "net.safetensors"))
    model = Custom(factory="nets.small:tied", weights="net.safetensors")(input_shape=SHAPE, n_classes=10)
    assert torch.equal(model.head.weight, net.fc.weight)


class _Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("this must not run",))


def test_files_that_are_no_state_dict_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = factory.build("nets.small:build", {})
    state = net.state_dict()
    for content, message in (
        (net, r"it is damaged, or holds other objects than tensors\): save model.state_dict\(\)"),
        ({"fc.weight": _Code()}, "holds other objects than tensors"),
        ({"model_state_dict": state, "epoch": 3}, "plain tensors by name under model_state_dict, epoch"),
        ({0: torch.zeros(1)}, "something else than plain tensors by name under 0"),
        (state | {"fc.bias": "0"}, "something else than plain tensors by name under fc.bias"),
        (state | {"fc.bias": state["fc.bias"].char()}, "1 of no real numbers: fc.bias torch.int8"),
        (nn.DataParallel(net).state_dict(), r"begin with module., which a wrapper adds: save model.module.state_dict"),
        ({f"_orig_mod.{name}": tensor for name, tensor in state.items()}, r"save model._orig_mod.state_dict\(\)"),
    ):
        torch.save(content, folder / "net.pt")
        with pytest.raises(ValueError, match=message):
            Custom(factory="nets.small:build", weights="net.pt")(input_shape=SHAPE, n_classes=10)
    for content in (b"", b"text", (folder / "net.pt").read_bytes()[:-300]):
        (folder / "net.pt").write_bytes(content)
        with pytest.raises(ValueError, match=r"weights: .*net.pt holds no weights that can be read"):
            Custom(factory="nets.small:build", weights="net.pt")(input_shape=SHAPE, n_classes=10)
    assert "must not run" not in capsys.readouterr().out


def test_unlike_weights_of_layers_that_share_theirs_are_named(folder: Path) -> None:
    state = factory.build("nets.small:tied", {}).state_dict()
    torch.save(state | {"twin.weight": state["fc.weight"] * 2}, folder / "net.pt")
    with pytest.raises(ValueError, match=r"unlike weights for layers of nets.small:tied that share theirs: fc.weight"):
        Custom(factory="nets.small:tied", weights="net.pt")(input_shape=SHAPE, n_classes=10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arguments": {"outputs": 7}}, "the model has 7 outputs, but the data have 10 classes"),
        ({"arguments": {"outputs": 1}}, "the model has 2 outputs, but the data have 10 classes"),
        ({"arguments": {"colour": 1}}, r"nets.small:build failed \(TypeError: .*colour.*model.arguments"),
        ({"arguments": {"soft": True}}, "no nn.Linear gives .* output. The last one, fc, is not what reaches"),
        ({"head": "body"}, "head=body is a Sequential: name the layer in it, body.1"),
        ({"input_shape": (5,)}, r"module fails on inputs of shape \[8, 5\] \(RuntimeError"),
        ({"mean": [0.5, 0.5, 0.5]}, "mean and std belong together"),
        ({"mean": [0.5], "std": [0.5]}, "mean is .0.5., but must be"),
        ({"mean": [0.5] * 3, "std": [0.5] * 3, "input_shape": (5,)}, "a model with model.mean and model.std takes"),
        ({"weights": "a.pt", "pretrained": False}, "weights is a.pt, but pretrained=false reads none"),
    ],
)
def test_bad_options_of_a_network(folder: Path, options: dict[str, Any], message: str) -> None:
    shape = options.pop("input_shape", SHAPE)
    with pytest.raises((ValueError, HeadError), match=message):
        Custom(factory="nets.small:build", **options)(input_shape=shape, n_classes=10)


def test_images_are_brought_to_the_networks_normalisation(folder: Path) -> None:
    pixels = torch.rand(4, *SHAPE)
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    plain = Custom(factory="nets.small:build")
    torch.manual_seed(0)
    expected = plain(input_shape=SHAPE, n_classes=10)
    torch.manual_seed(0)
    model = Custom(factory="nets.small:build", mean=mean, std=std, images="pixels")(input_shape=SHAPE, n_classes=10)
    normalised = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    with torch.no_grad():
        torch.testing.assert_close(model(pixels), expected(normalised))


@pytest.mark.slow
def test_example_of_the_page_runs_from_another_folder(folder: Path, tmp_path: Path) -> None:
    page = (CONF.parent / "docs" / "models.md").read_text()
    (code,) = re.findall(r"```python\n# nets.py\n(.*?)```", page, re.DOTALL)
    (command,) = re.findall(r"^python run.py (model=custom .*)$", page, re.MULTILINE)
    (folder / "network.py").write_text(code)
    save_file(factory.build("network:Net", {}).state_dict(), folder / "net.safetensors")
    places = ["logger=none", "device=cpu", "cache_dir=cache", "results_dir=results"]
    arguments = command.replace("nets:Net", "network:Net").split()
    done = subprocess.run(
        [sys.executable, str(CONF.parent / "run.py"), *arguments, *places, *CHEAP],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(CONF.parent / "src")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (record,) = (folder / "results").rglob("record.json")
    assert Record.read(record).status == "done"
