"""Every way of training and every model that conf/ names."""

from collections.abc import Callable

import pytest
import torch
from tests.conftest import CONF

from efface.data.base import Dataset
from efface.models.efficientnet_lite0 import EfficientNetLite0
from efface.runs.grid import GridRun
from efface.training import Erm, read_out
from efface.training.head import Head

TRAININGS = sorted(path.stem for path in (CONF / "training").glob("*.yaml"))
FOLDERS = {"transformers"}
"""Models that need a folder: see tests/models."""
MODELS = sorted({path.stem for path in (CONF / "model").glob("*.yaml")} - FOLDERS)
NEEDED = {
    "timm": ["model.architecture=test_resnet", "model.pretrained=false"],
    "custom": ["model.factory=torchvision.models:resnet18", "model.arguments={num_classes: 10}"],
}


@pytest.mark.parametrize("name", TRAININGS)
def test_training_has_the_options_that_data_sets_and_experiments_set(
    parts_of: Callable[..., GridRun], name: str
) -> None:
    training = parts_of(f"training={name}", "dataset=adult", "training.lr=0.5").training
    assert isinstance(training, Erm)
    assert (training.epochs, training.batch_size, training.lr) == (50, 1024, 0.5)


@pytest.mark.parametrize("name", MODELS)
def test_model_is_built_for_the_inputs(parts_of: Callable[..., GridRun], mini: Dataset, name: str) -> None:
    model = parts_of(f"model={name}", *NEEDED.get(name, [])).model(input_shape=mini.input_shape, n_classes=10).eval()
    x = mini.val.inputs(torch.arange(2))
    assert model(x).shape == (2, 10)
    torch.testing.assert_close(model(x), model.head(model.backbone(x)))
    none = torch.empty(0, dtype=torch.int64)
    assert read_out(model.backbone, mini.val, rows=none, device="cpu").shape == (0, model.head.in_features)


def test_photographs_have_a_pretrained_model_and_a_head_on_it_by_default(parts_of: Callable[..., GridRun]) -> None:
    run = parts_of("dataset=celeba", "method=leace")
    assert isinstance(run.model, EfficientNetLite0)
    assert isinstance(run.training, Head)
    assert run.config["dataset"]["resolution"] == 160
    assert (run.config["method"]["fit_on"], run.config["method"]["reweigh"]) == ("train", False)
    assert parts_of("dataset=celeba", "model=convnet").config["model"]["name"] == "convnet"


@pytest.mark.parametrize(
    ("experiment", "model", "batch_size"),
    [("group_dro_celeba", "resnet50", 128), ("rlace_celeba_pixels", "linear", 128)],
)
def test_published_recipe_names_its_own_model_and_training(
    parts_of: Callable[..., GridRun], experiment: str, model: str, batch_size: int
) -> None:
    run = parts_of(f"experiment={experiment}")
    assert run.config["model"]["name"] == model
    assert not run.training.head_only
    assert run.training.batch_size == batch_size
