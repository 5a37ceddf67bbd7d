"""Classifiers of transformers, built from a configuration: images on the grid, texts from Python."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from efface.models.transformers import Transformers
from efface.models.wrapped import unwrap, wrap
from efface.runs import base
from efface.runs.grid import GridRun

pytest.importorskip("transformers")
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
SHAPE = (3, 28, 28)


def vit(labels: int = 10) -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    return ViTForImageClassification(ViTConfig(**SIZES, image_size=28, patch_size=7, num_labels=labels)).eval()


def bert(labels: int = 3) -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(**SIZES, vocab_size=50, max_position_embeddings=16, num_labels=labels)
    return BertForSequenceClassification(config).eval()


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(0)
    config = LlamaConfig(**SIZES, vocab_size=50, max_position_embeddings=16, num_labels=3, pad_token_id=0)
    return LlamaForSequenceClassification(config).eval()


def tokens() -> dict[str, torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, 9, (12, 1), generator=draws)
    mask = (torch.arange(8) < lengths).long()
    return {"input_ids": torch.randint(1, 50, (12, 8), generator=draws) * mask, "attention_mask": mask}


def test_image_classifier_runs_as_it_is(parts_of: Callable[..., GridRun], tmp_path: Path) -> None:
    network = vit()
    network.save_pretrained(tmp_path)  # type: ignore[operator]
    cheap = ("evaluation.mlp_probe=false", "evaluation.bootstrap=0", "evaluation.probe=false")
    parts = parts_of("model=transformers", f"model.path={tmp_path}", "training=none", *cheap)
    record = base.execute(parts, say=lambda message: None)
    assert (record.status, record.info["d"]) == ("done", 16)
    assert "transformers" in record.run["versions"]
    model = parts.model(input_shape=SHAPE, n_classes=10)
    x = torch.randn(4, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(model(x), network(x).logits)
        torch.testing.assert_close(unwrap(model)(pixel_values=x).logits, network(x).logits)
    vit().load_state_dict(unwrap(model).state_dict())


def test_normalisation_is_that_of_the_folder(tmp_path: Path) -> None:
    network = vit()
    network.save_pretrained(tmp_path)  # type: ignore[operator]
    facts = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "do_normalize": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(facts))
    pixels = torch.rand(2, *SHAPE)
    mean, std = (torch.tensor(facts[name])[:, None, None] for name in ("image_mean", "image_std"))
    model = Transformers(path=str(tmp_path), images="pixels")(input_shape=SHAPE, n_classes=10)
    with torch.no_grad():
        torch.testing.assert_close(model(pixels), network((pixels - mean) / std).logits)


@pytest.mark.parametrize("build", [bert, llama])
def test_text_classifier_takes_packed_ids_and_masks(build: Callable[[], nn.Module], tmp_path: Path) -> None:
    network, inputs = build(), tokens()
    with torch.no_grad():
        expected = network(**inputs).logits
        model = wrap(network, example=inputs)
        packed = model.backbone.prepare.pack(inputs).float()  # type: ignore[union-attr,operator]
        torch.testing.assert_close(model(packed), expected)
        torch.testing.assert_close(unwrap(model)(**inputs).logits, expected)
        network.save_pretrained(tmp_path)  # type: ignore[operator]
        loaded = Transformers(path=str(tmp_path))(input_shape=(2, 8), n_classes=3)
        torch.testing.assert_close(loaded(packed), expected)
    build().load_state_dict(unwrap(model).state_dict())


def test_bad_folders_are_named(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    vit().save_pretrained(tmp_path / "images")  # type: ignore[operator]
    bert().save_pretrained(tmp_path / "texts")  # type: ignore[operator]
    BertModel(BertConfig(**SIZES, vocab_size=50)).save_pretrained(tmp_path / "bare")
    vit().save_pretrained(tmp_path / "headless")  # type: ignore[operator]
    config = json.loads((tmp_path / "headless" / "config.json").read_text())
    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / "headless" / "model.safetensors")
    kept = {name: t for name, t in weights.items() if not name.startswith("classifier.")}
    save_file(kept, tmp_path / "headless" / "model.safetensors", metadata={"format": "pt"})
    assert config["architectures"] == ["ViTForImageClassification"]
    (tmp_path / "empty").mkdir()
    for name, shape, classes, message in (
        ("images", SHAPE, 7, "the model has 10 outputs, but the data have 7 classes"),
        ("images", (3, 30, 30), 10, r"module fails on inputs of shape pixel_values \[8, 3, 30, 30\]"),
        ("images", (5,), 10, "a classifier of images, takes images"),
        ("texts", SHAPE, 3, r"a classifier of texts, takes token ids and masks \(2, tokens\)"),
        ("bare", SHAPE, 3, "holds BertModel, but must hold one …ForImageClassification"),
        ("headless", SHAPE, 10, "lacks the weights classifier.bias, classifier.weight"),
        ("empty", SHAPE, 10, "cannot be loaded"),
    ):
        with pytest.raises(ValueError, match=message):
            Transformers(path=str(tmp_path / name))(input_shape=shape, n_classes=classes)
    with pytest.raises(ValueError, match=r"revision is v1, but .*bare is a folder"):
        Transformers(path=str(tmp_path / "bare"), revision="v1")


def test_changed_folder_is_another_run(tmp_path: Path) -> None:
    prints = set()
    for labels in (10, 11):
        vit(labels).save_pretrained(tmp_path)  # type: ignore[operator]
        prints.add(Transformers(path=str(tmp_path)).fingerprint())
    assert len(prints) == 2


def test_commit_of_the_hub_is_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("efface.models.transformers.hub_commit", lambda *names: asked.append(names) or "0123abc")
    assert Transformers(path="org/name", revision="v1").fingerprint() == "0123abc"
    assert asked == [("org/name", "v1")]
