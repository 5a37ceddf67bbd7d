"""Every way of training and every model that conf/ names."""

from collections.abc import Callable

import pytest
import torch
from tests.conftest import CONF

from efface.data.base import Dataset
from efface.runs.grid import GridRun
from efface.training import Erm, read_out

TRAININGS = sorted(path.stem for path in (CONF / "training").glob("*.yaml"))
MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))


@pytest.mark.parametrize("name", TRAININGS)
def test_training_has_the_options_that_data_sets_and_experiments_set(
    parts_of: Callable[..., GridRun], name: str
) -> None:
    training = parts_of(f"training={name}", "dataset=celeba", "training.lr=0.5").training
    assert isinstance(training, Erm)
    assert (training.epochs, training.batch_size, training.lr) == (5, 128, 0.5)


@pytest.mark.parametrize("name", MODELS)
def test_model_is_built_for_the_inputs(parts_of: Callable[..., GridRun], mini: Dataset, name: str) -> None:
    model = parts_of(f"model={name}").model(input_shape=mini.input_shape, n_classes=10).eval()
    x = mini.val.inputs(torch.arange(2))
    assert model(x).shape == (2, 10)
    torch.testing.assert_close(model(x), model.head(model.backbone(x)))
    none = torch.empty(0, dtype=torch.int64)
    assert read_out(model.backbone, mini.val, rows=none, device="cpu").shape == (0, model.head.in_features)


def test_celeba_has_its_model_and_its_erasure(parts_of: Callable[..., GridRun]) -> None:
    parts = parts_of("dataset=celeba", "method=leace")
    assert parts.config["model"]["name"] == "resnet18"
    assert (parts.config["method"]["fit_on"], parts.config["method"]["reweigh"]) == ("train", False)
    assert parts_of("dataset=celeba", "model=convnet").config["model"]["name"] == "convnet"
