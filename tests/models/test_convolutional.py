import urllib.error
from pathlib import Path

import pytest
import torch
from torch import nn

from efface.models.base import Model
from efface.models.convnet import convnet
from efface.models.resnet import resnet
from efface.models.resnet20 import resnet20

BUILDERS = {"resnet18": resnet, "resnet20": resnet20, "convnet": convnet}
FEATURES = {"resnet18": 512, "resnet20": 64, "convnet": 128}


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("channels", [1, 3])
def test_models_have_a_backbone_and_a_linear_head(name: str, channels: int) -> None:
    model = BUILDERS[name](input_shape=(channels, 32, 32), n_classes=3).eval()  # type: ignore[operator]
    assert isinstance(model, Model)
    x = torch.randn(2, channels, 32, 32)
    assert model.backbone(x).shape == (2, FEATURES[name])
    torch.testing.assert_close(model(x), model.head(model.backbone(x)))
    assert model(x).shape == (2, 3)


@pytest.mark.parametrize("name", BUILDERS)
def test_layout_is_channels_last_and_changes_nothing(name: str) -> None:
    model = BUILDERS[name](input_shape=(3, 32, 32), n_classes=2).eval()  # type: ignore[operator]
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 32, 32)
    before = model(x)
    torch.testing.assert_close(model(x.to(memory_format=torch.channels_last)), before, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model.to(memory_format=torch.contiguous_format)(x), before, atol=1e-5, rtol=1e-4)


def test_resnet18_equals_that_of_torchvision() -> None:
    from torchvision.models import resnet18

    theirs = resnet18().eval()
    ours = resnet(input_shape=(3, 64, 64), n_classes=1000).eval()
    state = theirs.state_dict()
    ours.head.load_state_dict({"weight": state.pop("fc.weight"), "bias": state.pop("fc.bias")})
    ours.backbone.load_state_dict(state)
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours(x), theirs(x))


def test_resnet50_has_2048_features() -> None:
    model = resnet(input_shape=(3, 32, 32), n_classes=2, depth=50)
    assert model.head.in_features == 2048


def test_resnet20_has_the_published_size() -> None:
    """0.27 million parameters and 20 layers, table 6 of the paper: here with ten classes, as there."""
    model = resnet20(input_shape=(3, 32, 32), n_classes=10)
    assert sum(p.numel() for p in model.parameters()) == 269_722
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == 20


def test_shortcut_keeps_its_channels() -> None:
    block = resnet20(input_shape=(3, 8, 8), n_classes=2).backbone[6]  # type: ignore[index]
    nn.init.zeros_(block.norm2.weight)  # type: ignore[union-attr]
    x = torch.rand(1, 16, 8, 8)
    y = block.eval()(x)  # type: ignore[operator]
    torch.testing.assert_close(y[:, 8:24], x[:, :, ::2, ::2])
    assert (y[:, :8] == 0).all()
    assert (y[:, 24:] == 0).all()


def fake_weights(monkeypatch: pytest.MonkeyPatch, folder: Path) -> dict[str, torch.Tensor]:
    """Weights where torchvision looks for those of ImageNet."""
    from torchvision.models import ResNet18_Weights, resnet18

    monkeypatch.setenv("TORCH_HOME", str(folder))
    state = resnet18().state_dict()
    file = folder / "hub" / "checkpoints" / ResNet18_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    torch.save(state, file)
    return state


def test_pretrained_weights_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = fake_weights(monkeypatch, tmp_path)
    ours = resnet(input_shape=(3, 32, 32), n_classes=2, pretrained=True).backbone.state_dict()
    for name, tensor in ours.items():
        assert torch.equal(tensor, state[name])


def test_grey_weights_equal_colour_weights_on_equal_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_weights(monkeypatch, tmp_path)
    grey = resnet(input_shape=(1, 32, 32), n_classes=2, pretrained=True).backbone.eval()
    colour = resnet(input_shape=(3, 32, 32), n_classes=2, pretrained=True).backbone.eval()
    x = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(grey(x), colour(x.expand(-1, 3, -1, -1)), atol=1e-5, rtol=1e-4)


def test_unreachable_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    with pytest.raises(FileNotFoundError) as error:
        resnet(input_shape=(3, 32, 32), n_classes=2, depth=50, pretrained=True, weights="IMAGENET1K_V2")
    file = tmp_path / "hub" / "checkpoints" / "resnet50-11ad3fa6.pth"
    for part in (str(file), "Put https://download.pytorch.org/models/resnet50-11ad3fa6.pth there", "pretrained=false"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (resnet, {"depth": 34}, r"^depth is 34, but must be 18 \| 50$"),
        (resnet, {"pretrained": True, "weights": "IMAGENET"}, "weights is 'IMAGENET', but must be one of IMAGENET1K"),
        (resnet, {"input_shape": (105,)}, r"inputs have shape \(105,\), but a ResNet takes images"),
        (resnet20, {"input_shape": (105,)}, "ResNet-20 takes images"),
        (convnet, {"input_shape": (105,)}, "model=convnet takes images"),
        (
            convnet,
            {"channels": []},
            r"^channels is \[\], but must be a list of integers >= 1 and <= 8192 with one entry or more$",
        ),
        (convnet, {"pool": 0}, "^pool is 0, but must be an integer >= 1$"),
        (convnet, {"kernel_size": 4}, "kernel_size is 4, but must be odd"),
        (convnet, {"channels": [8] * 6}, "are too small for 6 layers"),
    ],
)
def test_bad_models(build: object, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**{"input_shape": (3, 32, 32), "n_classes": 2, **options})  # type: ignore[operator]
