"""What erasure does to word vectors: WEAT, SimLex-999, nearest neighbours, and what a kernel machine still reads."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from efface.data.base import Dataset
from efface.data.groups import groups
from efface.data.vocabulary import Vocabulary
from efface.debiased import Debiased
from efface.evaluation import probes, word_lists
from efface.evaluation.associations import nearest, simlex, weat
from efface.evaluation.evaluate import Aside, Evaluated, Evaluation, Read, Reference
from efface.evaluation.measured import Measured
from efface.evaluation.word_lists import WordPairs, WordSets
from efface.extras import require
from efface.files import digest, file_digest
from efface.options import Ge, options
from efface.problem import Features

DRAWN = 150
"""Words of each attribute that a record places on a plane."""


@options
class WordEmbeddings(Evaluation):
    """Evaluates debiased word vectors.

    Beside what `Evaluation` measures on the splits, WEAT and SimLex-999 are computed from the debiased vectors of all
    words that their lists name, wherever those are: in train, in test, or in no split. Neither has a part in fitting or
    selection. The base model, `method=none`, has their values before erasure.

    Args:
        svm_probe: train a support vector machine with a radial kernel for the attribute, for `svm_probe_accuracy`.
        neighbours: words whose nearest neighbours, before and after, the record holds.
        k: how many neighbours of each.
    """

    svm_probe: bool = True
    neighbours: Sequence[str] = ("he", "she", "nurse", "engineer", "sister", "beautiful", "captain", "pistol")
    k: Annotated[int, Ge(1)] = 10

    def fingerprint(self, data_dir: Path) -> str:
        return digest(*(file_digest(path).encode() for path in word_lists.files(data_dir)))

    def require(self, dataset: Dataset, data_dir: Path) -> None:
        """Check that there are words, lists that can be read, and scikit-learn.

        Raises:
            ValueError: the data set has no words, too few of them, or a list cannot be read.
            ModuleNotFoundError: scikit-learn is not there.
        """
        words = len(_Lists.read(dataset, data_dir).vocabulary)
        if self.k >= words:
            raise ValueError(f"k is {self.k}, but must be less than the {words} words that there are")
        if self.svm_probe:
            require("sklearn", extra="sklearn", what="evaluation.svm_probe=true")

    @torch.no_grad()
    def aside(self, debiased: Debiased, dataset: Dataset, read: Read, data_dir: Path) -> Aside:
        """Measure the vectors of all words.

        The record also has the nearest neighbours, which words are missing, and where words of test lie on a plane.
        """
        lists = _Lists.read(dataset, data_dir)
        if debiased.represent.uses_attribute:
            return Aside(lists.unmeasured("the method needs the attribute of each word, which most have not"))
        before = read(lists.vocabulary.vectors, debiased.cut)
        after = debiased.represent(before)
        wanted = [word for word in self.neighbours if lists.vocabulary.row(word) is not None]
        info = {
            "neighbours": {
                "before": _neighbours(before, lists.vocabulary, wanted, self.k),
                "after": _neighbours(after, lists.vocabulary, wanted, self.k),
            },
            "missing_words": {**lists.missing, "neighbours": sorted(set(self.neighbours) - set(wanted))},
            "plane": _plane(before, after, lists.vocabulary, dataset),
        }
        return Aside(lists.measured(after), info)

    @torch.no_grad()
    def __call__(
        self, debiased: Debiased, features: Features, counterfactual: Features | None, reference: Reference
    ) -> Evaluated:
        evaluated = super().__call__(debiased, features, counterfactual, reference)
        n_attributes = reference.aligned.shape[1]
        why = probes.unreadable(features.a, n_attributes, features.cluster)
        accuracy = None
        if self.svm_probe and why is None:
            x = reference.standardise(debiased.represent(features.x, features.a))
            accuracy = svm_probe(x, features.a, groups(features.y, features.a, n_attributes), features.cluster)
        off = "the kernel probe is switched off (evaluation.svm_probe)"
        measured = Measured.from_values({"svm_probe_accuracy": accuracy}, lambda name: why or off)
        return replace(
            evaluated, metrics=evaluated.metrics | measured.metrics, reasons=evaluated.reasons | measured.reasons
        )


def svm_probe(x: Tensor, a: Tensor, strata: Tensor, cluster: Tensor | None = None) -> float:
    """Return the held-out accuracy of a support vector machine with a radial kernel.

    Trained on one half and scored on the other, like every probe; scikit-learn's defaults, C = 1 and γ = 1 / (d Var x).

    Args:
        x: standardised features `[n, d]`.
        a: attribute `[n]`.
        strata: `[n]`, groups that both halves get evenly.
        cluster: `[n]`, samples of one value are in one half.

    Cost: O(n² d), two seconds for 4,500 samples of 100 features.
    """
    from sklearn.svm import SVC

    train, test = (rows.cpu() for rows in probes.halves(strata, cluster))
    x_np, a_np = x.cpu().numpy(), a.cpu().numpy()
    machine = SVC(kernel="rbf").fit(x_np[train], a_np[train])
    return float(machine.score(x_np[test], a_np[test]))


@dataclass(frozen=True)
class _Lists:
    """The lists, and the vocabulary in which their words are looked up."""

    vocabulary: Vocabulary
    tests: dict[str, WordSets]
    pairs: WordPairs

    @classmethod
    def read(cls, dataset: Dataset, data_dir: Path) -> "_Lists":
        """Read the lists; ValueError if the data set has no words."""
        if dataset.vocabulary is None:
            raise ValueError(
                "evaluation=word_embeddings needs words with vectors, which this data set has not: take dataset=glove, "
                "or evaluation=default"
            )
        return cls(dataset.vocabulary, word_lists.read_weat(data_dir), word_lists.read_simlex(data_dir))

    @property
    def missing(self) -> dict[str, list[str]]:
        """Words without a vector by the name of the list."""
        lists: dict[str, WordSets | WordPairs] = {**self.tests, "simlex": self.pairs}
        return {name: words.missing(self.vocabulary) for name, words in lists.items()}

    def unmeasured(self, reason: str) -> Measured:
        """Return no value of any metric, for one reason."""
        names = [f"{name}_{part}" for name in self.tests for part in ("d", "p")]
        return Measured.from_values(dict.fromkeys([*names, "simlex"]), lambda name: reason)

    def measured(self, vectors: Tensor) -> Measured:
        """Measure vectors `[n, d]` of all words."""
        measured = self._simlex(vectors)
        for name, sets in self.tests.items():
            measured |= self._weat(name, sets, vectors)
        return measured

    def _weat(self, name: str, sets: WordSets, vectors: Tensor) -> Measured:
        reason = sets.too_few(self.vocabulary)
        d = p = math.nan
        if reason is None:
            x, y, a, b = (vectors[self.vocabulary.rows(words)] for words in sets.sets.values())
            try:
                d, p = weat(x, y, a, b)
            except ValueError as error:  # nothing is left of a word
                reason = str(error)
        why = reason or "all targets have the same association"
        return Measured.from_values({f"{name}_d": d, f"{name}_p": p}, lambda _: why)

    def _simlex(self, vectors: Tensor) -> Measured:
        known, first, second = self.pairs.known(self.vocabulary)
        value, why = math.nan, f"only {len(known)} of {len(self.pairs.first)} pairs have vectors"
        if 2 * len(known) >= len(self.pairs.first):
            try:
                value, why = simlex(vectors[first], vectors[second], self.pairs.human[known]), "they are constant"
            except ValueError as error:  # nothing is left of a word
                why = str(error)
        return Measured.from_values({"simlex": value}, lambda _: why)


def _plane(before: Tensor, after: Tensor, vocabulary: Vocabulary, dataset: Dataset) -> dict[str, Any]:
    """Return where words of test lie, before and after, on the plane of the first two principal components of test.

    They are the `DRAWN` most frequent words of each attribute.
    """
    rows, a = dataset.test.index, dataset.test.a
    frequent = [rows[a == value].sort().values[:DRAWN] for value in range(len(dataset.attributes))]
    drawn = torch.cat(frequent)
    names = [name for name, words in zip(dataset.attributes, frequent, strict=True) for _ in words]
    return {
        "words": [vocabulary.words[row] for row in drawn.tolist()],
        "attributes": names,
        **{
            when: [[round(value, 4) for value in point] for point in _projected(x, rows, drawn).tolist()]
            for when, x in (("before", before), ("after", after))
        },
    }


def _projected(x: Tensor, rows: Tensor, drawn: Tensor) -> Tensor:
    """Return coordinates `[n, 2]` of the drawn rows on the plane of the first two principal components of other rows.

    Each component points to where its largest coordinate is positive.
    """
    fitted = x[rows.to(x.device)].double()
    mean = fitted.mean(0)
    axes = torch.linalg.eigh((fitted - mean).T @ (fitted - mean)).eigenvectors[:, [-1, -2]]
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    projected: Tensor = (x[drawn.to(x.device)].double() - mean) @ (axes * largest.sign())
    return projected


def _neighbours(x: Tensor, vocabulary: Vocabulary, words: Sequence[str], k: int) -> dict[str, Any]:
    """Return the k nearest words of each word among all of the vocabulary."""
    rows = torch.tensor(vocabulary.rows(words), dtype=torch.int64, device=x.device)
    near = nearest(x, rows, k).tolist()
    return {word: [vocabulary.words[row] for row in each] for word, each in zip(words, near, strict=True)}
