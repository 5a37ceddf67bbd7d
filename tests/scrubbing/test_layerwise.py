import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tests.scrubbing.conftest import untouched
from torch import Tensor, nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from efface.data.conllu import TaggedText
from efface.erasure.leace import LeaceEraser
from efface.evaluation.probes import Standardiser
from efface.moments import Moments
from efface.scrubbing import FAMILIES, ConceptScrubber, Family, Site, family_of, random_scrubber, scrub
from efface.scrubbing.evaluation import information_gain
from efface.scrubbing.language_models import LanguageModel
from efface.scrubbing.measure import bits_per_byte, largest_covariances, states_behind
from efface.scrubbing.tokens import TokenData

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 50,
    "max_position_embeddings": 32,
    "num_key_value_heads": 2,
}


def random_model(family: str) -> Any:
    """A model with random weights of each family, to see that its modules are where the table says."""
    torch.manual_seed(0)
    options: dict[str, Any] = dict(TINY)
    if family == "gpt2":
        options = {"n_embd": 32, "n_layer": 3, "n_head": 4, "vocab_size": 50, "n_positions": 32}
    if family.startswith(("gemma", "qwen3")):
        options["head_dim"] = 8
    if family not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {family}")
    config = transformers.AutoConfig.for_model(family, **options)
    auto: Any = transformers.AutoModel if family == "bert" else transformers.AutoModelForCausalLM
    return auto.from_config(config).eval()


@pytest.fixture(scope="module")
def words() -> dict[str, Tensor]:
    """Random tokens, three in four of which have a label; the last quarter of every third sequence is padding."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 50, (40, 16), generator=generator)
    mask = torch.ones_like(ids)
    mask[::3, 12:] = 0
    z = torch.where(torch.rand(ids.shape, generator=generator) < 0.75, ids % 5, -100)
    return {"input_ids": ids, "attention_mask": mask, "pos": z}


def gains(lm: LanguageModel, scrubber: ConceptScrubber, train: TokenData, k: int) -> list[float]:
    """What the best linear predictor gains on the data fitted on, behind each eraser, as the model itself runs."""
    paths, tokens = list(scrubber.erasers), train.z >= 0
    before = states_behind(lm, ConceptScrubber(), train, paths, batch_size=8, tokens=tokens)
    after = states_behind(lm, scrubber, train, paths, batch_size=8, tokens=tokens)
    z = train.z[tokens]
    return [information_gain(Standardiser.of(before[p].double())(after[p].double()), z, k) for p in paths]


@pytest.mark.parametrize("method", ["leace", "orth"])
@pytest.mark.parametrize("affine", [True, False])
def test_concept_is_linearly_erased_at_every_layer(
    lm: LanguageModel, train: TokenData, text: TaggedText, method: Any, affine: bool
) -> None:
    k = len(text.tags)
    scrubber, loss = scrub(lm.model, train.columns(), "z", affine, 8, method, progress=False)
    assert scrubber is not None
    assert len(scrubber.erasers) == 4
    assert {eraser.rank for eraser in scrubber.erasers.values()} == {len(train.z[train.z >= 0].unique()) - 1}
    assert max(gains(lm, scrubber, train, k)) < 1e-3
    covariances = largest_covariances(lm, scrubber, train, list(scrubber.erasers), k, batch_size=8)
    assert max(covariances.values()) < 1e-5
    # The loss is that of the model under the scrubber.
    assert loss is not None
    with scrubber.scrub(lm.model), torch.no_grad():
        logits = lm.model(train.input_ids, attention_mask=train.attention_mask).logits
    real = train.attention_mask[:, 1:] > 0
    expected = nn.functional.cross_entropy(logits[:, :-1][real], train.input_ids[:, 1:][real])
    assert loss == pytest.approx(float(expected), rel=1e-4)
    assert loss > (scrub(lm.model, train.columns(), None, batch_size=8)[1] or 0) + 0.05


def left(lm: LanguageModel, scrubber: ConceptScrubber, train: TokenData, k: int) -> list[float]:
    return list(largest_covariances(lm, scrubber, train, list(scrubber.erasers), k, batch_size=8).values())


def test_random_directions_do_not_erase_the_concept(lm: LanguageModel, train: TokenData, text: TaggedText) -> None:
    k = len(text.tags)
    assert min(left(lm, random_scrubber(lm.model, k - 1), train, k)) > 0.02


def test_erasers_fitted_on_unscrubbed_states_leak(lm: LanguageModel, train: TokenData, text: TaggedText) -> None:
    """Why layers are fitted one after the other."""
    paths, tokens = family_of(lm.model).paths(lm.model), train.z >= 0
    states = states_behind(lm, ConceptScrubber(), train, paths, batch_size=8, tokens=tokens)
    at_once = ConceptScrubber(erasers={p: LeaceEraser.fit(states[p], train.z[tokens], rtol=1e-4) for p in paths})
    first, *_, last = left(lm, at_once, train, len(text.tags))
    assert first < 1e-5
    assert last > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sublayers", [True, False])
def test_all_families_and_state_options_agree(
    family: str, sublayers: bool, words: dict[str, Tensor], tmp_path: Path
) -> None:
    """From kept states, or anew from the tokens: the same erasers, and each guards where the model really runs it."""
    model = random_model(family)
    pre_hook = not sublayers
    options = {"batch_size": 16, "sublayers": sublayers, "pre_hook": pre_hook, "progress": False}
    abandoned = tmp_path / ".scrub-abandoned"  # by a process that was killed
    abandoned.mkdir()
    (abandoned / ".locked").touch()
    results = {
        states: scrub(model, words, "pos", states=states, states_dir=tmp_path, **options)  # type: ignore[arg-type]
        for states in ("memory", "disk", "recompute")
    }
    assert untouched(model)
    assert not list(tmp_path.iterdir())
    scrubber, loss = results["recompute"]
    assert scrubber is not None
    assert (loss is None) == (family == "bert")
    assert len(scrubber.erasers) == (6 if sublayers else 3) + (family == "bert")
    for other, other_loss in results.values():
        assert other is not None
        assert other_loss == loss
        for path, eraser in scrubber.erasers.items():
            torch.testing.assert_close(other.erasers[path].P, eraser.P, atol=1e-5, rtol=0)
    lm = LanguageModel(model, lambda text: ([], []), (), (), 0, 16)
    data = TokenData(words["input_ids"], words["attention_mask"], words["pos"], torch.ones_like(words["pos"]))
    covariances = largest_covariances(lm, scrubber, data, list(scrubber.erasers), 5, batch_size=16)
    assert max(covariances.values()) < 1e-5


def test_padding_and_unlabelled_tokens_take_no_part(words: dict[str, Tensor]) -> None:
    model = random_model("llama")
    spoiled = dict(words)
    padding = words["attention_mask"] == 0
    spoiled["input_ids"] = torch.where(padding, 49, words["input_ids"])
    spoiled["pos"] = torch.where(padding, 3, words["pos"])
    one, loss = scrub(model, words, "pos", batch_size=8, progress=False)
    other, other_loss = scrub(model, spoiled, "pos", batch_size=8, progress=False)
    assert one is not None
    assert other is not None
    assert loss == pytest.approx(other_loss, rel=1e-6)
    for path, eraser in one.erasers.items():
        torch.testing.assert_close(other.erasers[path].P, eraser.P, atol=1e-5, rtol=0)


def test_batch_size_and_container_do_not_matter(words: dict[str, Tensor]) -> None:
    datasets = pytest.importorskip("datasets")
    model = random_model("gpt_neox")
    lists = {
        name: [row[: int(m.sum())].tolist() for row, m in zip(column, words["attention_mask"], strict=True)]
        for name, column in words.items()
        if name != "attention_mask"
    }
    one, _ = scrub(model, words, "pos", batch_size=40, progress=False)
    other, _ = scrub(model, datasets.Dataset.from_dict(lists), "pos", batch_size=1, progress=False)
    assert one is not None
    assert other is not None
    for path, eraser in one.erasers.items():
        torch.testing.assert_close(other.erasers[path].P, eraser.P, atol=1e-4, rtol=0)


def test_blocks_run_a_fixed_number_of_times_with_one_layer_in_memory(
    words: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linear time in tokens and in blocks, and statistics of one layer whatever the number of layers."""
    model = random_model("llama")
    calls = [0, 0, 0]
    alive: list[int] = []
    for i, block in enumerate(model.model.layers):
        block.mlp.register_forward_hook(lambda *_, i=i: calls.__setitem__(i, calls[i] + 1))
    made = weakref.WeakSet[Moments]()
    update = Moments.update

    def counted(self: Moments, *args: Any, **kwargs: Any) -> None:
        made.add(self)
        update(self, *args, **kwargs)
        alive.append(len(made))

    monkeypatch.setattr(Moments, "update", counted)
    scrub(model, words, "pos", batch_size=8, progress=False)
    assert calls == [5, 5, 5]  # the MLP of each block: once for each of five batches
    assert max(alive) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_have_float32_statistics(words: dict[str, Tensor], dtype: torch.dtype) -> None:
    model = random_model("llama").to(dtype)
    scrubber, loss = scrub(model, words, "pos", batch_size=8, progress=False)
    assert scrubber is not None
    assert loss is not None
    full, _ = scrub(random_model("llama"), words, "pos", batch_size=8, progress=False)
    assert full is not None
    for path, eraser in scrubber.erasers.items():
        assert eraser.proj_left.dtype == torch.float32
        assert eraser.rank == 4
        assert float((eraser.P - full.erasers[path].P).norm() / (torch.eye(32) - full.erasers[path].P).norm()) < 0.1
    with scrubber.scrub(model):
        assert model(words["input_ids"][:2]).logits.dtype == dtype


def test_bits_per_byte_do_not_depend_on_the_tokeniser(lm: LanguageModel, text: TaggedText) -> None:
    data = lm.tokenise(text.test, text.tags)
    measured = bits_per_byte(lm, ConceptScrubber(), data, batch_size=2)
    with torch.no_grad():
        logits = lm.model(data.input_ids, attention_mask=data.attention_mask).logits
    real = data.attention_mask[:, 1:] > 0
    nats = nn.functional.cross_entropy(logits[:, :-1][real], data.input_ids[:, 1:][real], reduction="sum")
    size = sum(len(document.text.encode()) for document in text.test)
    assert measured == pytest.approx(float(nats) / 0.6931471805599453 / size, rel=1e-4)
    assert measured == pytest.approx(bits_per_byte(lm, ConceptScrubber(), data, batch_size=3), rel=1e-5)


def test_unknown_families_are_named(words: dict[str, Tensor]) -> None:
    options = {"n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 50, "rotary_dim": 4}
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model("gptj", **options))
    with pytest.raises(ValueError, match=r"family 'gptj', of which only bert, .* give family=Family\("):
        scrub(model, words, "pos")
    mine = Family(blocks="h", sites=(Site(path="ln_1"),))
    scrubber, loss = scrub(model, words, "pos", batch_size=8, family=mine, progress=False)
    assert scrubber is not None
    assert list(scrubber.erasers) == ["h.0.ln_1", "h.1.ln_1"]
    assert loss is not None
    with pytest.raises(ValueError, match="no module 'blocks'"):
        scrub(model, words, "pos", family=Family(blocks="blocks", sites=()))
    with pytest.raises(ValueError, match=r"no module 'h\.0\.nowhere'"):
        scrub(
            model, words, "pos", batch_size=8, progress=False, family=Family(blocks="h", sites=(Site(path="nowhere"),))
        )
    assert untouched(model)


def test_bad_options(trained: Callable[[str], LanguageModel], words: dict[str, Tensor]) -> None:
    """Covers faults C4, `scrub`."""
    model = trained("llama").model
    with pytest.raises(ValueError, match="states is 'ram'"):
        scrub(model, words, "pos", states="ram")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="method is 'sal'"):
        scrub(model, words, "pos", method="sal", batch_size=8, progress=False)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch_size is 0"):
        scrub(model, words, "pos", batch_size=0)
    with pytest.raises(ValueError, match="labels from 0 to 4"):
        scrub(model, words, "pos", batch_size=8, n_labels=3, progress=False)
    for n_labels in (1, 2.0):
        with pytest.raises(ValueError, match=rf"n_labels={n_labels} classes, but needs two or more"):
            scrub(model, words, "pos", batch_size=8, n_labels=n_labels, progress=False)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"n_labels=1 classes"):
        scrub(model, {**words, "pos": words["pos"].clamp_max(0)}, "pos", batch_size=8, progress=False)
    assert untouched(model)
