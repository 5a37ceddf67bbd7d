"""Networks with weights from elsewhere: the weights are those of the network, and what is wrong is named."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from efface.data.images import CHANNEL_MEAN, CHANNEL_STD, GREY_MEAN, GREY_STD
from efface.models.efficientnet_lite0 import EfficientNetLite0
from efface.models.pretrained import ImageNormalised, Pretrained, read_weights
from efface.models.timm import Timm


def test_efficientnet_lite0_computes_what_timm_computes_with_the_same_weights() -> None:
    import timm

    model = EfficientNetLite0()(input_shape=(3, 48, 48), n_classes=2).eval()
    theirs = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    own = model.backbone[1].state_dict()  # type: ignore[index,union-attr]
    theirs.load_state_dict(dict(zip(theirs.state_dict(), own.values(), strict=True)))  # in the same order
    for side in (48, 37):
        x = torch.randn(2, 3, side, side)
        normalised = model.backbone[0](x)  # type: ignore[index,operator]
        with torch.no_grad():
            torch.testing.assert_close(model.backbone(x), theirs(normalised), atol=1e-4, rtol=1e-4)


def test_efficientnet_lite0_tells_a_flower_from_a_palace() -> None:
    """Classes of ImageNet by the head in the file: 985 is a daisy, 698 a palace."""
    from sklearn.datasets import load_sample_image

    network = EfficientNetLite0()
    model = network(input_shape=(3, 224, 224), n_classes=1000).eval()
    weights = read_weights(network.file())
    model.head.load_state_dict({"weight": weights["_fc.weight"], "bias": weights["_fc.bias"]})
    for name, label in (("flower.jpg", 985), ("china.jpg", 698)):
        pixels = torch.from_numpy(load_sample_image(name).copy()).permute(2, 0, 1)[None, :, :, 100:527] / 255
        square = nn.functional.interpolate(pixels, (224, 224), mode="bilinear", antialias=True)
        mean, std = (torch.tensor(v)[:, None, None] for v in (CHANNEL_MEAN, CHANNEL_STD))
        with torch.no_grad():
            assert int(model((square - mean) / std).argmax()) == label


def test_grey_image_is_a_colour_image_of_equal_channels() -> None:
    pixels = torch.rand(2, 1, 4, 4)
    grey, colour = (ImageNormalised(n, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)) for n in (1, 3))
    mean, std = (torch.tensor(v)[:, None, None] for v in (CHANNEL_MEAN, CHANNEL_STD))
    expected = colour((pixels.expand(-1, 3, -1, -1) - mean) / std)
    torch.testing.assert_close(grey((pixels - GREY_MEAN[0]) / GREY_STD[0]), expected)


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit", "test_efficientnet", "mobilenetv3_small_050"])
def test_timm_reads_a_file_of_weights(architecture: str, tmp_path: Path) -> None:
    import timm

    torch.manual_seed(0)
    theirs = timm.create_model(architecture).eval()
    side = 160 if architecture == "test_vit" else 64
    save_file(theirs.state_dict(), tmp_path / "weights.safetensors")
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "weights.pth")
    x = torch.randn(2, 3, side, side)
    for name in ("weights.safetensors", "weights.pth"):
        network = Timm(architecture=architecture, path=str(tmp_path / name))
        model = network(input_shape=(3, side, side), n_classes=2).eval()
        assert model.pretrained
        with torch.no_grad():
            expected = theirs.forward_head(
                theirs.forward_features(model.backbone[0](x)),  # type: ignore[index,operator]
                pre_logits=True,
            )
            torch.testing.assert_close(model.backbone(x), expected)
        assert model(x).shape == (2, 2)


def test_timm_takes_the_file_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    file = tmp_path / "model.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), file)
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download",
        lambda *names, **options: asked.append((*names, options["revision"])) or str(file),
    )
    for revision in (None, "0123abc"):
        asked.clear()
        network = Timm(architecture="test_resnet", revision=revision)
        assert network(input_shape=(3, 32, 32), n_classes=2).pretrained
        assert set(asked) == {("timm/test_resnet.r160_in1k", "model.safetensors", revision)}


def test_unreachable_hub_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*names: str, **options: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(FileNotFoundError, match=r"test_resnet.r160_in1k is not .* \(no network\): .* model.path"):
        Timm(architecture="test_resnet").fingerprint()


def test_fingerprint_follows_the_content_of_the_weights(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    prints = set()
    for value in (0.0, 1.0):
        torch.save({"w": torch.tensor(value)}, file)
        prints.add(EfficientNetLite0(path=str(file)).fingerprint())
    assert len(prints) == 2
    assert EfficientNetLite0(pretrained=False).fingerprint() == ""
    assert EfficientNetLite0().fingerprint().startswith("57934424")


def test_weights_of_another_network_are_named_key_by_key(tmp_path: Path) -> None:
    from torchvision.models import resnet18

    state = EfficientNetLite0()(input_shape=(3, 32, 32), n_classes=2).backbone[1].state_dict()  # type: ignore[index,union-attr]
    reshaped = {**state, "_conv_stem.weight": torch.zeros(32, 3, 5, 5)}
    for weights, message in (
        (
            resnet18().state_dict(),
            r"another network than efficientnet_lite0: .* missing: _conv_stem.weight, .* more; "
            r"122 unexpected: conv1.weight, bn1.weight, .* more",
        ),
        (reshaped, r"1 of other shapes: _conv_stem.weight \[32, 3, 5, 5\] in place of \[32, 3, 3, 3\]$"),
        ({k: v for k, v in state.items() if k != "_bn0.bias"}, "1 missing: _bn0.bias$"),
    ):
        torch.save(weights, tmp_path / "other.pth")
        with pytest.raises(ValueError, match=message):
            EfficientNetLite0(path=str(tmp_path / "other.pth"))(input_shape=(3, 32, 32), n_classes=2)


class _Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("this must not run",))


def test_file_never_runs_code_and_says_what_it_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "weights.pth"
    torch.save(_Code(), file)
    with pytest.raises(ValueError, match=r"weights.pth holds no weights that can be read"):
        read_weights(file)
    assert "must not run" not in capsys.readouterr().out
    file.write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match=r"weights.pth holds no weights that can be read"):
        read_weights(file)
    torch.save([torch.zeros(2)], file)
    with pytest.raises(ValueError, match="holds list, but must hold tensors by name"):
        read_weights(file)
    (tmp_path / "weights.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="holds no weights that can be read"):
        read_weights(tmp_path / "weights.safetensors")


@pytest.mark.parametrize(
    ("network", "input_shape", "message"),
    [
        (Timm(architecture="resnet_eighteen", pretrained=False), (3, 32, 32), "'resnet_eighteen', which timm does not"),
        (Timm(architecture="resnet18.nonsense", pretrained=False), (3, 32, 32), "did you mean resnet18"),
        (Timm(architecture="test_vit", pretrained=False), (3, 64, 64), "160 pixels only, .* dataset.resolution=160"),
        (Timm(architecture="test_resnet", pretrained=False), (2352,), "model=timm takes images"),
        (EfficientNetLite0(pretrained=False), (2, 32, 32), "model=efficientnet_lite0 takes images"),
    ],
)
def test_bad_requests(network: Pretrained, input_shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network(input_shape=input_shape, n_classes=2)


def test_bad_paths(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"path: there is no file .*none.pth"):
        EfficientNetLite0(path=str(tmp_path / "none.pth")).fingerprint()
    with pytest.raises(ValueError, match="pretrained=false reads no weights"):
        EfficientNetLite0(path="some.pth", pretrained=False)
    with pytest.raises(ValueError, match="revision is v1, but no weights are taken from the hub"):
        Timm(architecture="test_resnet", path="some.pth", revision="v1")
