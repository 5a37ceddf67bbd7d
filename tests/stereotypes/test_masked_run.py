"""Masked models in a folder, saved as `transformers` saves: with and without the head for the next sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from tests.conftest import CONF
from tests.stereotypes.conftest import NOUNS, VERBS

from efface.cli import main as entry
from efface.record import Record
from efface.runs import base

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (*SPECIALS, "he", "she", "saw", "the", "came", ".", *VERBS[1:], *NOUNS)


def saved(folder: Path, kind: str) -> Path:
    """A small BERT of random weights, and its tokeniser."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIALS, strict=True))
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(**sizes, vocab_size=len(WORDS), max_position_embeddings=32, initializer_range=0.3)
    getattr(transformers, kind)(config).save_pretrained(folder)
    return folder


@pytest.fixture
def record_of(data: Path, tmp_path: Path) -> Callable[..., Record]:
    def run(folder: Path, *overrides: str) -> Record:
        options = [
            *("dataset.name=small", "dataset.folder=.", "dataset.prefix=small", "dataset.words=words.json"),
            *("evaluation.crows_pairs=pairs.csv", "evaluation.stereoset=stereoset", "logger=none", "device=cpu"),
            *("model=pretrained", f"model.path={folder}", "model.head=masked", "model.max_length=16"),
            *("dataset.scope=sentence", f"data_dir={data}", f"cache_dir={tmp_path}/cache", f"results_dir={tmp_path}/r"),
        ]
        with initialize_config_dir(str(CONF / "language_model"), version_base="1.3"):
            built = entry.build(compose("language_model", overrides=[*options, *overrides]))
        return base.execute(built, say=lambda message: None)

    return run


def test_a_masked_model_has_all_scores_but_bits_per_byte(record_of: Callable[..., Record], tmp_path: Path) -> None:
    folder = saved(tmp_path / "bert", "BertForPreTraining")
    records = {method: record_of(folder, f"method={method}") for method in ("none", "leace", "inlp")}
    for record in records.values():
        for key in ("crows_pairs_gender", "stereoset_gender_icat", "stereoset_inter_gender_icat"):
            assert 0 <= record.metrics[key] <= 1
        assert record.metrics["bits_per_byte"] is None
        assert record.info["reasons"]["bits_per_byte"] == "the model predicts hidden tokens, and not the next one"
    assert [layer["path"] for layer in records["inlp"].info["layers"]] == ["encoder.layer.1.output.LayerNorm"]
    assert records["leace"].info["layers"][0]["path"] == "embeddings.LayerNorm"


def test_without_a_second_head_nothing_is_said_of_the_next_sentence(
    record_of: Callable[..., Record], tmp_path: Path
) -> None:
    record = record_of(saved(tmp_path / "bert", "BertForMaskedLM"), "method=none")
    assert record.metrics["stereoset_gender_icat"] is not None
    assert record.metrics["stereoset_inter_gender_icat"] is None
    assert record.info["reasons"]["stereoset_inter_gender_icat"] == "the model has no head for the next sentence"


def test_fmd_moves_the_output_layer_of_a_masked_model(record_of: Callable[..., Record], tmp_path: Path) -> None:
    options: Any = ("method.penalties=[1,0.01]", "method.hessian_tokens=20", "method.pairs=own.csv")
    record = record_of(saved(tmp_path / "bert", "BertForPreTraining"), "method=fmd", *options)
    path = record.info["unlearning_path"]
    assert [point["penalty"] for point in path] == [1.0, 0.01]
    assert all(point["residual"] <= 0.01 for point in path)


def test_a_tokeniser_without_a_mask_is_named(record_of: Callable[..., Record], tmp_path: Path) -> None:
    folder = saved(tmp_path / "bert", "BertForMaskedLM")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = folder / name
        if path.is_file():
            lines = [line for line in path.read_text().splitlines() if '"mask_token"' not in line]
            path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"head is masked, but the tokeniser of .* has no mask token"):
        record_of(folder, "method=none")
