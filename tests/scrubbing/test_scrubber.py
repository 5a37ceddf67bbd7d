import contextlib
import inspect
from pathlib import Path

import pytest
import torch
from tests.scrubbing.conftest import untouched
from torch import nn
from transformers import DynamicCache

from efface import tensorfiles
from efface.erasure.affine import AffineEraser
from efface.erasure.oracle import OracleEraser
from efface.scrubbing import ConceptScrubber, random_scrub, random_scrubber
from efface.scrubbing.language_models import LanguageModel
from efface.scrubbing.methods import Scrubbing
from efface.scrubbing.tokens import TokenData


@pytest.fixture
def scrubber(lm: LanguageModel, train: TokenData) -> ConceptScrubber:
    return Scrubbing().fit(lm, train, seed=0, batch_size=8, progress=False)


def test_hooks_are_removed_after_an_exception(lm: LanguageModel, scrubber: ConceptScrubber, train: TokenData) -> None:
    before = lm.model(train.input_ids[:2]).logits
    with contextlib.suppress(KeyError), scrubber.scrub(lm.model):
        assert not torch.allclose(lm.model(train.input_ids[:2]).logits, before, atol=1e-3)
        raise KeyError
    assert untouched(lm.model)

    def fail(path: str, x: torch.Tensor) -> None:
        raise RuntimeError("in the forward pass")

    with pytest.raises(RuntimeError, match="in the forward pass"), scrubber.apply_hook(lm.model, fail):
        lm.model(train.input_ids[:2])
    assert untouched(lm.model)
    assert torch.equal(lm.model(train.input_ids[:2]).logits, before)


def test_unknown_path_leaves_no_hook(lm: LanguageModel, scrubber: ConceptScrubber) -> None:
    scrubber.erasers["layers.1.input_layernrm"] = next(iter(scrubber.erasers.values()))
    with pytest.raises(ValueError, match=r"no module 'layers.1.input_layernrm'.*layers.1.input_layernorm"):
        scrubber.scrub(lm.model).__enter__()
    assert untouched(lm.model)


def test_eraser_of_another_width_is_refused(lm: LanguageModel, train: TokenData) -> None:
    eraser = AffineEraser.orthogonal(torch.eye(8)[:, :1], None)
    with (
        pytest.raises(ValueError, match="last dimension must be 8"),
        ConceptScrubber(erasers={"layers.0.input_layernorm": eraser}).scrub(lm.model),
    ):
        lm.model(train.input_ids[:1])
    assert untouched(lm.model)


@pytest.mark.parametrize("kind", ["leace", "random"])
def test_cached_generation_is_the_same(
    lm: LanguageModel, scrubber: ConceptScrubber, train: TokenData, kind: str
) -> None:
    """Generation, token by token with a cache and anew each time; and logits, to 1e-4 in float32."""
    prompt = train.input_ids[:2, :6]
    with scrubber.scrub(lm.model) if kind == "leace" else random_scrub(lm.model, 12, seed=3):
        options = {"max_new_tokens": 12, "do_sample": False, "attention_mask": torch.ones_like(prompt)}
        cached = lm.model.generate(prompt, use_cache=True, **options)  # type: ignore[operator]
        anew = lm.model.generate(prompt, use_cache=False, **options)  # type: ignore[operator]
        assert torch.equal(cached, anew)
        whole = lm.model(train.input_ids[:2, :20], use_cache=False).logits
        name = "cache" if "cache" in inspect.signature(lm.model.forward).parameters else "past_key_values"
        caches = {name: DynamicCache()}
        steps = (slice(0, 7), slice(7, 8), slice(8, 20))
        parts = [lm.model(train.input_ids[:2, step], **caches, use_cache=True).logits for step in steps]
        torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-4, rtol=0)


def test_random_subspaces_depend_on_the_seed_alone(lm: LanguageModel) -> None:
    one, again, other = (random_scrubber(lm.model, 12, seed=seed) for seed in (0, 0, 1))
    assert list(one.erasers) == [
        f"layers.{i}.{name}" for i in range(2) for name in ("input_layernorm", "post_attention_layernorm")
    ]
    for path, eraser in one.erasers.items():
        assert eraser.rank == 12
        assert torch.equal(eraser.P, again.erasers[path].P)
        assert not torch.allclose(eraser.P, other.erasers[path].P, atol=0.1)
    with pytest.raises(ValueError, match="subspace_dim is 32"):
        random_scrubber(lm.model, 32)


def test_saved_scrubber_does_the_same(
    lm: LanguageModel, scrubber: ConceptScrubber, train: TokenData, tmp_path: Path
) -> None:
    scrubber.save(tmp_path / "scrubber.safetensors")
    loaded = ConceptScrubber.load(tmp_path / "scrubber.safetensors")
    assert [type(e) for e in loaded.erasers.values()] == [type(e) for e in scrubber.erasers.values()]
    with scrubber.scrub(lm.model):
        expected = lm.model(train.input_ids[:2]).logits
    with loaded.scrub(lm.model):
        assert torch.equal(lm.model(train.input_ids[:2]).logits, expected)
    empty = ConceptScrubber(pre_hook=True)
    empty.save(tmp_path / "empty.safetensors")
    assert ConceptScrubber.load(tmp_path / "empty.safetensors") == empty
    scrubber.erasers["layers.0.input_layernorm"].save(tmp_path / "one.safetensors")
    with pytest.raises(ValueError, match="is not a saved ConceptScrubber, it holds a saved LeaceEraser"):
        ConceptScrubber.load(tmp_path / "one.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="is not a saved ConceptScrubber"):
        ConceptScrubber.load(tmp_path / "bad.safetensors")
    oracle = OracleEraser(torch.zeros(2, 2), None)
    with pytest.raises(TypeError, match="is a OracleEraser"):
        ConceptScrubber(erasers={"x": oracle}).save(tmp_path / "x")  # type: ignore[dict-item]


class Plain(nn.Module):
    """No model of `transformers`: a module whose output is a tuple, called by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)

        class Pair(nn.Module):
            def forward(self, *, x: torch.Tensor, y: int) -> tuple[torch.Tensor, int]:
                return 2 * x, y

        self.pair = Pair()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        out: tuple[torch.Tensor, int] = self.pair(x=self.norm(x), y=7)
        return out


@pytest.mark.parametrize("pre_hook", [False, True])
def test_plain_modules_can_be_scrubbed(pre_hook: bool) -> None:
    model, x = Plain(), torch.randn(3, 4)
    eraser = AffineEraser.orthogonal(torch.eye(4)[:, :2], torch.ones(4))
    seen: list[str] = []
    with ConceptScrubber(pre_hook, {"pair": eraser}).apply_hook(model, lambda path, x: seen.append(path)):
        assert torch.equal(model(x)[0], 2 * model.norm(x))
    assert seen == ["pair"]
    with ConceptScrubber(pre_hook, {"pair": eraser}).scrub(model):
        y, extra = model(x)
    assert extra == 7
    torch.testing.assert_close(y[:, :2], torch.full((3, 2), 2.0 if pre_hook else 1.0))
    torch.testing.assert_close(y[:, 2:], 2 * model.norm(x)[:, 2:])


def test_erasers_follow_the_states_to_their_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model spread over devices hands each site states that are where its layer is: here on cpu and on meta.

    States on meta have no values, which the eraser says: it was moved to them by then.
    """
    moves: list[str] = []
    to = AffineEraser.to

    def recorded(eraser: AffineEraser, device: torch.device) -> AffineEraser:
        moves.append(torch.device(device).type)
        return to(eraser, device)

    monkeypatch.setattr(AffineEraser, "to", recorded)
    norms = nn.Sequential(nn.LayerNorm(4), nn.LayerNorm(4, device="meta"))
    eraser = AffineEraser.orthogonal(torch.eye(4)[:, :2], torch.ones(4))
    with ConceptScrubber(erasers={"0": eraser, "1": eraser}).scrub(norms):
        assert norms[0](torch.randn(2, 4)).device.type == "cpu"
        with pytest.raises(ValueError, match="x is on the device meta"):
            norms[1](torch.empty(2, 4, device="meta"))
    assert moves == ["cpu", "meta"]


@pytest.mark.parametrize(
    ("tensors", "facts"),
    [
        ({}, {}),
        ({}, {"pre_hook": False, "erasers": {"norm": "LeaceEraser"}}),
        ({}, {"pre_hook": False, "erasers": {"norm": "os.system"}}),
        ({}, {"pre_hook": "no", "erasers": {}}),
        ({}, {"pre_hook": False, "erasers": ["norm"]}),
        ({"norm/bias": torch.zeros(3)}, {"pre_hook": False, "erasers": {}}),
    ],
)
def test_a_file_with_a_part_missing_is_named(tmp_path: Path, tensors: dict, facts: dict) -> None:
    """Covers faults A1: damage is a ValueError, whatever it is."""
    tensorfiles.write(tmp_path / "file", tensors, kind="ConceptScrubber", facts=facts)
    with pytest.raises(ValueError, match="lacks a part of a saved"):
        ConceptScrubber.load(tmp_path / "file")
