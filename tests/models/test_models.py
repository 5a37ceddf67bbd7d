import pytest
import torch
from torch import nn

from efface.models.base import Model
from efface.models.linear import linear
from efface.models.mlp import mlp


@pytest.mark.parametrize("build", [linear, mlp])
def test_forward_is_head_of_backbone(build: object) -> None:
    model = build(input_shape=(3, 28, 28), n_classes=10)  # type: ignore[operator]
    x = torch.randn(4, 3, 28, 28)
    torch.testing.assert_close(model(x), model.head(model.backbone(x)))
    assert model(x).shape == (4, 10)


def test_mlp_has_the_published_widths() -> None:
    model = mlp(input_shape=(3, 28, 28), n_classes=10, head_bias=False)
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in layers] == [(2352, 100), (100, 100), (100, 100), (100, 10)]
    assert layers[-1].bias is None


def test_bad_models() -> None:
    with pytest.raises(
        ValueError, match=r"^hidden is \[\], but must be a list of integers >= 1 and <= 65536 with one entry or more$"
    ):
        mlp(input_shape=(4,), n_classes=2, hidden=[])
    with pytest.raises(ValueError, match="head has 1 output"):
        Model(nn.Flatten(), nn.Linear(4, 1))
