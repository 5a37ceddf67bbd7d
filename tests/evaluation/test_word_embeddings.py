"""WEAT and SimLex-999 by hand, and as the metrics of a run."""

import itertools
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.data import glove_files

from efface.evaluation.associations import nearest, simlex, weat
from efface.evaluation.word_lists import read_simlex, read_weat
from efface.record import Record
from efface.runs import base, grid


def vectors(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows)


RIGHT, UP = vectors([2.0, 0.0]), vectors([0.0, 0.5])


def test_weat_by_hand() -> None:
    # Associations are cos − sin of the target's angle: 1 and 0.2 for x, −1 and −0.2 for y.
    x, y = vectors([3.0, 0.0], [0.8, 0.6]), vectors([0.0, 1.0], [0.6, 0.8])
    result = weat(x, y, RIGHT, UP)
    deviation = math.sqrt((1 + 0.04 + 1 + 0.04) / 4)
    assert result.d == pytest.approx(1.2 / deviation)
    assert result.p == pytest.approx(1 / 6)  # the largest difference of six partitions
    opposite = weat(y, x, RIGHT, UP)
    assert opposite.d == pytest.approx(-result.d)
    assert opposite.p == 1
    # The second largest difference: 1 and −0.2 against 0.2 and −1.
    assert weat(torch.stack([x[0], y[1]]), torch.stack([x[1], y[0]]), RIGHT, UP).p == pytest.approx(2 / 6)


def test_weat_counts_equal_partitions_whatever_rounding_does() -> None:
    x = vectors([0.1, 0.7], [0.3, 0.3], [0.7, 0.1]).double()
    assert weat(x, x * 3, RIGHT, UP).p == pytest.approx(
        np.mean([sum(part) >= 0 for part in itertools.combinations([-1, 0, 1] * 2, 3)])
    )


def test_weat_of_sets_of_unlike_sizes_agrees_with_the_definition() -> None:
    rng = np.random.default_rng(0)
    x, y, a, b = (torch.from_numpy(rng.normal(size=(n, 5))) for n in (3, 4, 2, 6))

    def association(w: torch.Tensor) -> float:
        cosines = [[float(torch.cosine_similarity(w, v, dim=0)) for v in attributes] for attributes in (a, b)]
        return float(np.mean(cosines[0]) - np.mean(cosines[1]))

    s = np.array([association(w) for w in torch.cat([x, y])])
    result = weat(x, y, a, b)
    observed = s[:3].mean() - s[3:].mean()
    assert result.d == pytest.approx(observed / s.std())
    differences = [s[list(part)].mean() - np.delete(s, part).mean() for part in itertools.combinations(range(7), 3)]
    assert result.p == pytest.approx(np.mean(np.array(differences) >= observed - 1e-12))


def test_weat_goes_through_all_partitions_of_sixteen_words() -> None:
    angles = torch.linspace(0, math.pi / 2, 16, dtype=torch.float64)
    targets = torch.stack([angles.cos(), angles.sin()], 1)
    assert weat(targets[:8], targets[8:], RIGHT, UP).p == pytest.approx(1 / 12_870)


def test_weat_without_an_answer() -> None:
    same = vectors([1.0, 1.0], [2.0, 2.0])
    assert math.isnan(weat(same, same, RIGHT, UP).d)
    assert weat(same, same, RIGHT, UP).p == 1
    with pytest.raises(ValueError, match="1 of 4 vectors are 0"):
        weat(same * torch.tensor([[0.0], [1.0]]), same, RIGHT, UP)
    with pytest.raises(ValueError, match="have 2, 0, 1 and 1 words"):
        weat(same, same[:0], RIGHT, UP)
    with pytest.raises(ValueError, match="partitions are too many"):
        weat(torch.rand(20, 2), torch.rand(20, 2), RIGHT, UP)


def test_simlex_by_hand() -> None:
    first = vectors([1.0, 0.0], [1.0, 0.0], [1.0, 0.0])
    second = vectors([5.0, 0.0], [0.0, 1.0], [3.0, 4.0])  # cosines 1, 0, 0.6
    human = torch.tensor([9.0, 3.0, 3.0], dtype=torch.float64)
    covariance = (1 * 9 + 0 * 3 + 0.6 * 3) / 3 - (1.6 / 3) * 5
    deviations = math.sqrt(1.36 / 3 - (1.6 / 3) ** 2) * math.sqrt(8)
    assert simlex(first, second, human) == pytest.approx(covariance / deviations)
    assert math.isnan(simlex(first, first, human))


def test_nearest_are_by_the_cosine_and_without_the_word_itself() -> None:
    x = vectors([1.0, 0.0], [9.0, 1.0], [0.0, 1.0], [-1.0, 0.1])
    assert nearest(x, torch.tensor([0, 2]), 2).tolist() == [[1, 2], [1, 3]]


def test_lists_have_the_names_as_targets(tmp_path: Path) -> None:
    tests = read_weat(glove_files.write(tmp_path))
    for sets in tests.values():
        assert (sets.x[0], sets.y[0]) == ("John", "Amy")
    assert tests["weat6"].a == glove_files.CAREER
    assert tests["weat7"].b == glove_files.ARTS
    assert read_simlex(tmp_path).human.tolist() == [1.5, 7, 6, 3]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("weat/weat6.jsonl", "{", "weat6.jsonl cannot be read"),
        ("weat/weat7b.jsonl", '{"targ1": {"examples": ["a"]}}', "weat7b.jsonl cannot be read .*targ"),
        ("simlex/simlex999.txt", "a b\t1\n", "simlex999.txt, line 1 is"),
        ("simlex/simlex999.txt", "a\tb\tlow\n", "simlex999.txt, line 1 is"),
        ("simlex/simlex999.txt", "", "simlex999.txt has 0 pairs"),
    ],
)
def test_bad_lists_are_named(tmp_path: Path, file: str, text: str, message: str) -> None:
    (glove_files.write(tmp_path) / file).write_text(text)
    read = read_weat if file.startswith("weat") else read_simlex
    with pytest.raises(ValueError, match=message):
        read(tmp_path)


SMALL = (
    *("dataset=glove", "dataset.vocabulary=800", "dataset.words=250", "training.epochs=1"),
    *("evaluation=word_embeddings", "evaluation.bootstrap=0", "evaluation.mlp_probe=false"),
    "evaluation.neighbours=[he,quidditch]",
)


def write(folder: Path) -> Path:
    return glove_files.write(folder, glove_files.lines(glove_files.vectors(800)))


def run(build: Callable[..., grid.GridRun], *overrides: str) -> Record:
    return base.execute(build(*SMALL, *overrides), say=lambda message: None)


def test_a_run_records_metrics_reasons_and_neighbours(parts_of: Callable[..., grid.GridRun], tmp_path: Path) -> None:
    folder = write(tmp_path)
    before, after = (run(parts_of, f"data_dir={folder}", f"method={name}") for name in ("none", "mean_projection"))
    known = glove_files.vectors()
    x, y, a, b = (
        torch.tensor(np.stack([known[word] for word in words]), dtype=torch.float32)
        for words in (glove_files.MALE, glove_files.FEMALE, glove_files.CAREER, glove_files.FAMILY)
    )
    assert before.metrics["weat6_d"] == pytest.approx(weat(x, y, a, b).d, abs=1e-4)
    assert before.metrics["weat6_p"] == pytest.approx(weat(x, y, a, b).p)
    assert abs(after.metrics["weat6_d"]) < before.metrics["weat6_d"]
    assert before.metrics["svm_probe_accuracy"] > 0.9
    assert -1 <= after.metrics["simlex"] <= 1
    assert "weat6_d" not in before.val_metrics
    # Of physics, NASA and office, one is there.
    assert before.metrics["weat8_d"] is None
    assert "only 1 of the 3 words physics, nasa, office" in before.info["reasons"]["weat8_d"]
    assert before.info["missing_words"] == {
        "weat6": [],
        "weat7": [],
        "weat8": ["nasa", "physics"],
        "simlex": ["zygote"],
        "neighbours": ["quidditch"],
    }
    assert before.info["neighbours"]["before"] == before.info["neighbours"]["after"]
    assert len(after.info["neighbours"]["after"]["he"]) == 10
    plane = after.info["plane"]
    assert plane["before"] == before.info["plane"]["before"] == before.info["plane"]["after"] != plane["after"]
    known = glove_files.vectors(800)
    for word, attribute in zip(plane["words"], plane["attributes"], strict=True):
        assert (known[word] @ (known["he"] - known["she"]) > 0) == (attribute == "male"), word
    assert before.fingerprint == after.fingerprint
    # A changed list is another fingerprint.
    pairs = folder / "simlex" / "simlex999.txt"
    pairs.write_text(pairs.read_text() + "he\tshe\t4\n")
    with pytest.raises(base.FingerprintError):
        run(parts_of, f"data_dir={folder}", "method=none")


def test_a_method_that_needs_the_attribute_has_no_value(parts_of: Callable[..., grid.GridRun], tmp_path: Path) -> None:
    folder = write(tmp_path)
    record = run(parts_of, f"data_dir={folder}", "method=oracle_leace", "evaluation.svm_probe=false", "seed=1")
    assert record.metrics["weat7_p"] is record.metrics["simlex"] is record.metrics["svm_probe_accuracy"] is None
    assert "needs the attribute of each word" in record.info["reasons"]["simlex"]
    assert "evaluation.svm_probe" in record.info["reasons"]["svm_probe_accuracy"]


def test_data_without_words_and_a_missing_list_are_refused(
    parts_of: Callable[..., grid.GridRun], tmp_path: Path
) -> None:
    folder = write(tmp_path)
    with pytest.raises(ValueError, match=r"needs words with vectors, .* take dataset=glove"):
        base.execute(parts_of("evaluation=word_embeddings", f"data_dir={folder}"), say=lambda message: None)
    (folder / "weat" / "weat7b.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"no file .*weat7b.jsonl. Put there the lists of Caliskan"):
        run(parts_of, f"data_dir={folder}", "method=none", "seed=2")


@pytest.mark.slow
@pytest.mark.skipif("DATA_DIR" not in os.environ, reason="set DATA_DIR to a folder with the data sets")
def test_real_vectors_before_and_after_one_direction(parts_of: Callable[..., grid.GridRun]) -> None:
    def measured(*overrides: str) -> dict[str, float]:
        parts = parts_of("experiment=rlace_glove", "training.epochs=1", "evaluation.bootstrap=0", *overrides)
        record = base.execute(parts, say=lambda message: None)
        assert {name: words for name, words in record.info["missing_words"].items() if words} == {
            "simlex": ["disorganize"]
        }
        return record.metrics

    before, after = measured("method=none"), measured("method=rlace", "method.rank=1")
    assert before["probe_accuracy"] > 0.999
    assert after["probe_accuracy"] == pytest.approx(after["probe_majority"], abs=0.02)
    assert after["svm_probe_accuracy"] > 0.9
    wanted = {
        "weat6_d": (1.774, 0.825),
        "weat7_d": (1.594, 0.844),
        "weat8_d": (0.918, -0.291),
        "simlex": (0.324, 0.3207),
    }
    for name, (old, new) in wanted.items():
        assert before[name] == pytest.approx(old, abs=0.001)
        assert after[name] == pytest.approx(new, abs=0.01 if name.startswith("weat") else 0.001)
