"""Fixed maps of features as modules: what is moved, copied and saved is the eraser that acts."""

import copy

import pytest
import torch

from efface.erasure.affine import AffineEraser
from efface.erasure.leace import LeaceEraser
from efface.representations import KINDS, Erased, LinearlyErased


@pytest.fixture
def erased() -> Erased:
    g = torch.Generator().manual_seed(0)
    x, z = torch.randn(200, 5, generator=g), torch.arange(200) % 2
    eraser = LeaceEraser.fit(x + z[:, None], z)
    plain = AffineEraser(eraser.proj_left, eraser.proj_right, eraser.bias)
    return LinearlyErased(dropped=torch.zeros(5, dtype=torch.bool), constant=torch.zeros(5), **plain.tensors())


def test_eraser_acts_with_a_state_put_in_for_one_call(erased: Erased) -> None:
    x = torch.ones(2, 5)
    nothing = {name: torch.zeros_like(t) for name, t in erased.state_dict().items()}
    assert torch.equal(torch.func.functional_call(erased, nothing, (x,)), x)
    assert not torch.equal(erased(x), x)


def test_eraser_moves_with_its_buffers(erased: Erased) -> None:
    x = torch.ones(2, 5)
    expected = erased(x)
    wide = copy.deepcopy(erased).to(torch.float64)
    torch.testing.assert_close(wide(x.double()), expected.double())
    assert wide.eraser.proj_left.dtype == torch.float64
    assert wide.eraser.proj_left is wide.proj_left
    assert erased.eraser.proj_left.dtype == torch.float32


def test_loaded_state_acts(erased: Erased) -> None:
    other = KINDS["affine"](**{name: torch.zeros_like(t) for name, t in erased.state_dict().items()})
    other.load_state_dict(erased.state_dict())
    torch.testing.assert_close(other(torch.ones(2, 5)), erased(torch.ones(2, 5)))
