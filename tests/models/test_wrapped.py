"""Classifiers of any kind become models whose head is their last linear layer; what cannot is named."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from efface.models.arguments import Arguments
from efface.models.base import Model
from efface.models.last_layer import HeadError
from efface.models.wrapped import unwrap, wrap


class Tail(nn.Module):
    """Features, a linear head, and what a test does around it."""

    def __init__(self, classes: int = 3, *, bias: bool = True, after: Any = None) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.ReLU())
        self.norm = nn.BatchNorm1d(8)
        self.fc = nn.Linear(8, classes, bias=bias)
        self.aux = nn.Linear(8, classes)
        self.after = after

    def forward(self, x: Tensor) -> Any:
        h = self.norm(self.body(x))
        return self.fc(h) if self.after is None else self.after(self, h)


@pytest.fixture
def x(generator: torch.Generator) -> Tensor:
    return torch.randn(16, 6, generator=generator)


@torch.no_grad()
def same(model: Model, module: nn.Module, x: Tensor) -> None:
    module.eval()
    torch.testing.assert_close(model(x), module(x))
    torch.testing.assert_close(model(x), model.head(model.backbone(x)))


def test_resnet_becomes_a_model_and_comes_back(generator: torch.Generator) -> None:
    from torchvision.models import resnet18

    module = resnet18(num_classes=5)
    before = copy.deepcopy(module.state_dict())
    x = torch.randn(8, 3, 32, 32, generator=generator)
    model = wrap(module, example=x)
    assert module.training
    same(model, module, x)
    assert model.backbone(x).shape == (8, 512)
    assert {name: t for name, t in before.items() if not name.startswith("fc.")}.keys() == (
        model.backbone.module.state_dict().keys()  # type: ignore[union-attr]
    )
    head = nn.Linear(512, 5)
    back = unwrap(model, head)
    resnet18(num_classes=5).load_state_dict(back.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(back(x), head(model.backbone(x)))
    for name, tensor in unwrap(model).state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_head_is_found_among_several_linear_layers(x: Tensor) -> None:
    module = Tail()
    same(wrap(module, example=x), module, x)
    same(wrap(module, example=x, head="fc"), module, x)
    model = wrap(module, head="fc")
    same(model, module, x)
    assert model.head.weight is not module.fc.weight


def test_nothing_after_the_head_is_computed(x: Tensor) -> None:
    counted = []
    module = Tail(after=lambda self, h: (self.fc(h), counted.append(1))[0])
    model = wrap(module, example=x)
    counted.clear()
    model(x)
    assert counted == []


@pytest.mark.parametrize(
    "after",
    [
        lambda self, h: self.fc(h),
        lambda self, h: self.fc(h)[:, 0],
        lambda self, h: self.fc(h).view(-1),
        lambda self, h: self.fc(h).squeeze(),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_one_logit_becomes_two_of_the_same_probabilities(x: Tensor, after: Any, bias: bool) -> None:
    module = Tail(1, bias=bias, after=after).eval()
    model = wrap(module, example=x, head="fc")
    with torch.no_grad():
        torch.testing.assert_close(model(x).softmax(1)[:, 1], module(x).sigmoid().flatten())
    head = nn.Linear(8, 2, bias=bias)
    back = unwrap(model, head)
    Tail(1, bias=bias).load_state_dict(back.state_dict())
    with torch.no_grad():
        expected = head(model.backbone(x)).softmax(1)[:, 1]
        torch.testing.assert_close(back(x).sigmoid().flatten(), expected)


@pytest.mark.parametrize(
    "after",
    [
        lambda self, h: {"logits": self.fc(h), "state": h},
        lambda self, h: self.fc(input=h),
        lambda self, h: (self.fc(h), h),
        lambda self, h: (self.aux(h), self.fc(h)),
    ],
)
def test_named_head_is_found_in_any_output(x: Tensor, after: Any) -> None:
    module = Tail(after=after).eval()
    model = wrap(module, example=x, head="fc")
    with torch.no_grad():
        torch.testing.assert_close(model(x), module.fc(module.norm(module.body(x))))


class Positions(nn.Module):
    """Logits at every position, of which one is picked, as LLaMA's classifiers do."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.score = nn.Linear(8, classes, bias=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        scores: Tensor = self.score(self.embed(input_ids))
        return scores[torch.arange(len(scores)), attention_mask.sum(1) - 1]


def test_ids_and_mask_are_packed_and_the_picked_position_is_the_feature(generator: torch.Generator) -> None:
    module = Positions().eval()
    ids = torch.randint(0, 50, (7, 5), generator=generator)
    mask = (torch.arange(5) < torch.randint(1, 6, (7, 1), generator=generator)).long()
    inputs = {"input_ids": ids, "attention_mask": mask}
    model = wrap(module, example=inputs)
    packed = model.backbone.prepare.pack(inputs)  # type: ignore[union-attr,operator]
    assert packed.shape == (7, 2, 5)
    assert packed.dtype == torch.int64
    with torch.no_grad():
        assert model.backbone(packed.float()).shape == (7, 8)
        torch.testing.assert_close(model(packed.float()), module(ids, mask))
        torch.testing.assert_close(unwrap(model)(**inputs), module(ids, mask))
    with pytest.raises(HeadError, match=r"head=score acts on inputs of shape \[7, 5, 8\].*give wrap an example"):
        wrap(module, head="score", prepare=Arguments(list(inputs), stacked=True))(packed)


def test_bad_arguments_are_named() -> None:
    arguments = Arguments(["input_ids", "attention_mask"], stacked=True)
    ids = torch.ones(2, 3, dtype=torch.long)
    for inputs, message in (
        ({"input_ids": ids}, "inputs have input_ids, but the model takes input_ids, attention_mask"),
        ({"input_ids": ids, "attention_mask": ids[:, :2]}, r"attention_mask is torch.int64 of shape \[2, 2\]"),
        ({"input_ids": ids, "attention_mask": ids.float()}, "attention_mask is torch.float32"),
        ({"input_ids": ids << 24, "attention_mask": ids}, "input_ids goes from 16777216 to 16777216"),
    ):
        with pytest.raises(ValueError, match=message):
            arguments.pack(inputs)


def test_integer_inputs_reach_the_module_as_integers() -> None:
    module = nn.Sequential(nn.EmbeddingBag(10, 4), nn.Linear(4, 2)).eval()
    ids = torch.arange(10).reshape(5, 2)
    model = wrap(module, example=ids)
    torch.testing.assert_close(model(ids.float()), module(ids))


@pytest.mark.parametrize(
    ("after", "head", "message"),
    [
        (lambda self, h: self.fc(h).softmax(1), None, r"no nn.Linear gives .* output. The last one, fc, is not"),
        (lambda self, h: self.fc(h).softmax(1), "fc", "head=fc is not what reaches the output .*without a softmax"),
        (lambda self, h: 2 * self.fc(h), "fc", "head=fc is not what reaches the output"),
        (lambda self, h: self.fc(h).relu_(), "fc", "head=fc is not what reaches the output"),
        (lambda self, h: self.fc(h[:, None]).view(-1, 3).exp(), "fc", "head=fc is not what reaches the output"),
        (lambda self, h: self.fc(h) + self.fc(h), "fc", "head=fc is called 2 times"),
        (lambda self, h: self.fc(h) + self.aux(h), None, "The last one, aux, is not what reaches the output"),
        (lambda self, h: (self.fc(h), self.aux(h)), None, "head: the module has several, aux, fc: name one"),
        (lambda self, h: self.fc(h), "aux", "head=aux is not used by the module's forward; that is fc"),
        (lambda self, h: self.fc(h), "fcc", "head=fcc: the module has no such layer; .*fc"),
        (lambda self, h: self.fc(h), "body", "head=body is a Sequential: name the layer in it, body.0"),
        (lambda self, h: self.fc(h), "norm", "head=norm is a BatchNorm1d, and no linear layer"),
        (lambda self, h: self.fc(h[:, None]), "fc", r"is not what reaches the output \(it gives \[8, 1, 3\]"),
        (lambda self, h: self.fc(h + torch.rand(1)), "fc", "head=fc gives other logits a second time"),
        (lambda self, h: h.mean(1, keepdim=True), "fc", "head=fc is not used by the module's forward"),
    ],
)
def test_module_without_one_linear_head_is_refused(x: Tensor, after: Any, head: str | None, message: str) -> None:
    with pytest.raises(HeadError, match=message):
        wrap(Tail(after=after), example=x, head=head)


def test_other_modules_that_cannot_be_wrapped(x: Tensor) -> None:
    with pytest.raises(HeadError, match="the module has no nn"):
        wrap(nn.Sequential(nn.Flatten()))
    with pytest.raises(HeadError, match="forward uses no nn"):
        wrap(nn.Sequential(nn.Flatten()), example=x)
    with pytest.raises(HeadError, match=r"has 3 linear layers, body.0, fc, aux: name one, or give an example"):
        wrap(Tail())
    with pytest.raises(HeadError, match=r"is itself the linear layer: hand over nn.Sequential\(nn.Flatten\(\), module"):
        wrap(nn.Linear(6, 2), example=x)
    with pytest.raises(HeadError, match="head=aux is not used"):
        wrap(Tail(), head="aux")(x)
    with pytest.raises(ValueError, match="module returns NaN or infinite values on the example"):
        wrap(Tail(), example=x / 0)
    with pytest.raises(ValueError, match="module returns no tensor"):
        wrap(Tail(after=lambda self, h: "logits"), example=x)
    module = Tail()
    module.lock = (i for i in range(3))  # type: ignore[assignment]
    with pytest.raises(ValueError, match="module cannot be copied"):
        wrap(module, example=x)


def test_heads_that_do_not_fit_back_are_refused(x: Tensor) -> None:
    model = wrap(Tail(bias=False), example=x, head="fc")
    with pytest.raises(ValueError, match=r"head has weights \[3, 7\], but that of the model has \[3, 8\]"):
        unwrap(model, nn.Linear(7, 3))
    with pytest.raises(ValueError, match="head has a bias, but the module's last layer has none"):
        unwrap(model, nn.Linear(8, 3))
    with pytest.raises(ValueError, match="model was not made by"):
        unwrap(Model(nn.Flatten(), nn.Linear(6, 2)))
