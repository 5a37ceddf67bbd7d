"""Training and reading of images: precision and augmentation."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from efface.data.base import Dataset
from efface.devices import resolve_precision
from efface.models.convnet import convnet
from efface.models.mlp import mlp
from efface.training import Erm
from efface.training.augment import augment
from efface.training.reading import read_out


def test_auto_is_bfloat16_for_convolutions_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    conv, linear = nn.Sequential(nn.Conv2d(3, 4, 3)), nn.Linear(3, 4)
    for has in (True, False):
        monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda has=has: has)
        monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
        assert (resolve_precision("auto", conv, "cpu") is torch.bfloat16) == has
        assert resolve_precision("auto", linear, "cpu") is torch.float32
        assert resolve_precision("float32", conv, "cpu") is torch.float32
        assert resolve_precision("bfloat16", linear, "cpu") is torch.bfloat16


def test_bfloat16_reads_nearly_the_same(mini: Dataset) -> None:
    torch.manual_seed(0)
    model = convnet(input_shape=mini.input_shape, n_classes=10, channels=[8, 16]).eval()
    exact, mixed = (
        read_out(model.backbone, mini.val, device="cpu", precision=p)  # type: ignore[arg-type]
        for p in ("float32", "bfloat16")
    )
    assert mixed.dtype == torch.float32
    assert float((exact - mixed).norm() / exact.norm()) < 0.02
    assert not torch.equal(exact, mixed)


def test_batches_are_small_where_samples_are_large(mini: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    class Probe(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            sizes.append(len(x))
            return x.flatten(1)

    monkeypatch.setattr("efface.training.reading._BATCH_VALUES", 100 * 3 * 28 * 28)
    x = read_out(Probe(), mini.val, device="cpu")
    assert sizes == [100] * 5
    torch.testing.assert_close(x, mini.val.inputs(torch.arange(500)).flatten(1))
    assert len(read_out(Probe(), mini.val, rows=torch.empty(0, dtype=torch.int64), device="cpu")) == 0


def test_convnet_learns_digits(mini: Dataset) -> None:
    torch.manual_seed(0)
    model = convnet(input_shape=mini.input_shape, n_classes=10, channels=[16, 32])
    trained = Erm(epochs=2, batch_size=64, lr=3e-3, augment=True).fit(model, mini, seed=0, device="cpu", progress=False)
    assert trained.history[-1]["accuracy"] > 0.8


def test_augmentation_cuts_and_mirrors(generator: torch.Generator) -> None:
    # x holds its own coordinates: what comes out tells where it came from.
    h, w = 24, 24
    down, right = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    x = torch.stack([down / h, right / w]).expand(4000, -1, -1, -1)
    y = augment(x, generator)
    assert y.shape == x.shape
    tall = (y[:, 0, -2] - y[:, 0, 1]).mean(1) / (h - 3) * h
    wide = (y[:, 1, :, -2] - y[:, 1, :, 1]).mean(1) / (w - 3) * w
    area, aspect = tall * wide.abs(), wide.abs() * w / (tall * h)
    assert 0.699 < float(area.min()) < 0.71
    assert float(area.max()) < 1.001
    cut = area < 0.999  # the others found no cut that fits, and stay whole
    assert 0.99 < float(aspect[cut].min()) < 1.01
    assert 1.32 < float(aspect[cut].max()) < 1.34
    assert float((wide < 0).double().mean()) == pytest.approx(0.5, abs=0.03)
    assert float(y.min()) >= 0
    assert float(y.max()) <= 1
    assert torch.equal(y, augment(x, torch.Generator().manual_seed(0)))


def test_whole_image_stays_as_it_is(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("efface.training.augment.AREA", (1.0, 1.0))
    monkeypatch.setattr("efface.training.augment.ASPECT", (1.0, 1.0))
    x = torch.rand(8, 3, 16, 16)
    y = augment(x, generator)
    same = torch.tensor([torch.allclose(one, other, atol=1e-5) for one, other in zip(x, y, strict=True)])
    mirrored = torch.tensor([torch.allclose(one.flip(2), other, atol=1e-5) for one, other in zip(x, y, strict=True)])
    assert (same ^ mirrored).all()
    assert functional.mse_loss(x, y) > 0


def test_tables_cannot_be_augmented(mini: Dataset) -> None:
    table = replace(mini, input_shape=(12,))
    with pytest.raises(ValueError, match=r"augment=true: inputs of shape \(12,\) are no images"):
        Erm(augment=True).fit(mlp(input_shape=(12,), n_classes=10), table, seed=0, device="cpu")
