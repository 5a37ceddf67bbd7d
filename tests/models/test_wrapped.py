"""Classifiers of any kind become models whose head is their last linear layer; what cannot is named."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

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


@pytest.mark.parametrize("called", ["fc", "twin"])
def test_head_of_two_names_is_replaced_under_both(x: Tensor, called: str) -> None:
    def build() -> nn.Module:
        module = Tail(after=lambda self, h: getattr(self, called)(h))
        module.twin = module.fc
        return module

    module = build()
    model = wrap(module, example=x)
    same(model, module, x)
    head, other = nn.Linear(8, 3), build()
    other.load_state_dict(unwrap(model, head).state_dict())
    with torch.no_grad():
        torch.testing.assert_close(other.eval()(x), head(model.backbone(x)))


def test_weights_that_a_state_dict_could_not_give_back_are_refused(x: Tensor) -> None:
    tied = nn.Sequential(nn.EmbeddingBag(5, 8), nn.Linear(8, 5, bias=False))
    tied[1].weight = tied[0].weight
    model = wrap(tied, example=torch.arange(10).reshape(5, 2) % 5)
    assert torch.equal(unwrap(model).state_dict()["1.weight"], tied[0].weight)
    with pytest.raises(ValueError, match=r"last layer, 1, shares its weights with 0.weight, which another head"):
        unwrap(model, nn.Linear(8, 5, bias=False))
    module = Tail()
    module.fc = nn.utils.parametrizations.weight_norm(module.fc)
    model = wrap(module, example=x, head="fc")
    same(model, module, x)
    with pytest.raises(ValueError, match=r"fc, computes its weights from parametrizations.weight.original0"):
        unwrap(model)


def test_sample_of_a_batch_of_one_keeps_its_row(x: Tensor) -> None:
    module = Tail(after=lambda self, h: self.fc(h[:, None].squeeze())).eval()
    model = wrap(module, example=x, head="fc")
    with torch.no_grad():
        torch.testing.assert_close(model(x[:1])[0], module(x[:1]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_precision_are_taken_in_float32(x: Tensor, dtype: torch.dtype) -> None:
    module = Tail().to(dtype)
    model = wrap(module, example=x.to(dtype))
    assert module.fc.weight.dtype == dtype
    same(model, copy.deepcopy(module).float(), x)
    module.load_state_dict(unwrap(model).state_dict())


class Masked(Positions):
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        scores: Tensor = self.score((self.embed(input_ids) * (~attention_mask)[..., None]).sum(1))
        return scores


def test_mask_of_booleans_reaches_the_module_as_such(generator: torch.Generator) -> None:
    module = Masked().eval()
    ids = torch.randint(0, 50, (7, 5), generator=generator)
    inputs = {"input_ids": ids, "attention_mask": ids > 25}
    model = wrap(module, example=inputs)
    with torch.no_grad():
        packed = model.backbone.prepare.pack(inputs).float()  # type: ignore[union-attr,operator]
        torch.testing.assert_close(model(packed), module(**inputs))


@pytest.mark.parametrize(
    "after",
    [
        lambda self, h: self.fc(h).clamp(-50, 50),
        lambda self, h: 3000 * torch.tanh(self.fc(h) / 3000),
        lambda self, h: (self.fc(h) + 100).relu() - 100,
        lambda self, h: 2 * self.fc(0 * h),
    ],
    ids=["clamp", "tanh", "relu", "scale of zeros"],
)
def test_what_comes_after_the_head_is_noticed_where_the_example_does_not_reach(x: Tensor, after: Any) -> None:
    module = Tail(after=after, bias=False)
    with pytest.raises(HeadError, match="head=fc is not what reaches the output"):
        wrap(module, example=x, head="fc")


def test_modules_whose_features_are_not_their_own_are_refused(x: Tensor) -> None:
    for after in (
        lambda self, h: self.fc(h - h.mean(0)),
        lambda self, h: self.fc(functional.batch_norm(h, None, None, training=True)),
    ):
        with pytest.raises(ValueError, match="gives a sample other logits beside other samples"):
            wrap(Tail(after=after), example=x, head="fc")
    before = x.clone()
    with pytest.raises(ValueError, match="changes its inputs in place"):
        wrap(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 3)), example=x)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sequential(nn.LazyLinear(3)), "layers that have no weights yet"),
        (nn.Sequential(nn.Linear(6, 3, device="meta")), "layers that have no weights yet"),
        (torch.nn.Flatten, "module is a type, but must be a torch.nn.Module"),
    ],
)
def test_what_is_no_finished_module_is_refused(x: Tensor, module: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrap(module, example=x)


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_script_is_refused(x: Tensor) -> None:
    with pytest.raises(HeadError, match=r"script of torch.jit"):
        wrap(torch.jit.trace(nn.Sequential(nn.Linear(6, 3)), x), example=x)


@pytest.mark.parametrize("example", [[[1.0]], {}, torch.zeros(0, 6), torch.zeros(4, 6, dtype=torch.complex64)])
def test_bad_example_is_named(example: Any) -> None:
    with pytest.raises(ValueError, match=r"example is a .* that cannot be used: give a tensor"):
        wrap(Tail(), example=example)


def test_ids_that_float32_does_not_hold_are_refused() -> None:
    with pytest.raises(ValueError, match="example goes from 3 to 16777217"):
        wrap(nn.Sequential(nn.EmbeddingBag(9, 4), nn.Linear(4, 2)), example=torch.tensor([[3, 2**24 + 1]]))


def test_heads_that_do_not_fit_back_are_refused(x: Tensor) -> None:
    model = wrap(Tail(bias=False), example=x, head="fc")
    with pytest.raises(ValueError, match=r"head has weights \[3, 7\], but that of the model has \[3, 8\]"):
        unwrap(model, nn.Linear(7, 3))
    with pytest.raises(ValueError, match="head has a bias, but the module's last layer has none"):
        unwrap(model, nn.Linear(8, 3))
    with pytest.raises(ValueError, match="model was not made by"):
        unwrap(Model(nn.Flatten(), nn.Linear(6, 2)))
