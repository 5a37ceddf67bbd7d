"""Word vectors of GloVe with gender as the protected attribute, after Ravfogel et al., 2020 (INLP) and 2022 (R-LACE).

Pennington, Socher and Manning, "GloVe: Global Vectors for Word Representation", EMNLP 2014; the vectors are in the
public domain (PDDL 1.0).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor

from efface.data.base import SPLITS, Dataset, Split, TensorSplit, matched_pairs, stratified_split
from efface.data.groups import groups
from efface.data.vector_file import vocabulary_of
from efface.data.vocabulary import Vocabulary
from efface.files import file_digest
from efface.options import Ge, Gt, Len, options

CLASSES, ATTRIBUTES = ("rarer", "more frequent"), ("female", "male")
URL = "https://nlp.stanford.edu/projects/glove/"


@options
class Glove:
    """The words of a file that are nearest to either end of a direction of gender, and their vectors.

    x is the vector as it is. a is the end that a word is near to, by the cosine with he − she, of which no person has
    labelled any. y is whether a word is among the more frequent half of those chosen: GloVe's files are sorted by
    frequency. It gives the head something to predict that is not gender. Pairs are two words of one label and different
    attributes, drawn at random, so that `counterfactual_bias` is null.

    Args:
        path: the file, relative to `data_dir`, plain or compressed by gzip.
        vocabulary: how many words are read at most, the most frequent ones.
        words: how many are chosen at either end.
        ratios: shares of train, val, pairs and test. Words are dealt out stratified by label and attribute. val and
            pairs together are the development set of the papers.
        ends: the words between which the direction lies.
    """

    path: str = "glove/glove.6B.100d.txt.gz"
    vocabulary: Annotated[int, Ge(1)] = 150_000
    words: Annotated[int, Ge(1)] = 7_500
    ratios: Annotated[Sequence[Annotated[float, Gt(0)]], Len(4, 4)] = (0.49, 0.15, 0.06, 0.3)
    ends: Annotated[Sequence[str], Len(2, 2)] = ("she", "he")

    def __post_init__(self) -> None:
        if abs(sum(self.ratios) - 1) > 1e-6:
            raise ValueError(
                f"ratios is {list(self.ratios)}, but must be four positive shares of {', '.join(SPLITS)} that sum to 1"
            )
        if 2 * self.words > self.vocabulary:
            raise ValueError(
                f"words is {self.words}, but twice as many must be at most vocabulary={self.vocabulary}: ask for fewer"
            )

    def fingerprint(self, data_dir: Path) -> str:
        file = self._file(data_dir)
        if not file.is_file():
            raise FileNotFoundError(
                f"path: no file {file.resolve()}. GloVe's vectors are at {URL}, in the public domain (PDDL 1.0): "
                "unpack glove.6B.zip there, or set dataset.path"
            )
        return file_digest(file)[:16]

    def _file(self, data_dir: Path) -> Path:
        return data_dir / Path(self.path).expanduser()

    def load(self, *, data_dir: Path, cache_dir: Path, seed: int) -> Dataset:
        """Read the vectors, choose words and deal them out. `seed` changes nothing."""
        fingerprint = self.fingerprint(data_dir)
        file = self._file(data_dir)
        vocabulary = vocabulary_of(file, most=self.vocabulary, cache_dir=cache_dir, content=fingerprint)
        rows, a = self._chosen(vocabulary, file)
        y = (torch.arange(len(rows)) < len(rows) // 2).long()
        generator = torch.Generator().manual_seed(0)
        sizes = {name: int(share * len(rows) + 1e-6) for name, share in zip(SPLITS, self.ratios, strict=True)}
        sizes["train"] += len(rows) - sum(sizes.values())
        parts = stratified_split(groups(y, a, len(ATTRIBUTES)), sizes, generator)
        splits: dict[str, Split] = {
            name: TensorSplit(index=rows[part], y=y[part], a=a[part], x=vocabulary.vectors[rows[part]])
            for name, part in parts.items()
        }
        return Dataset.from_parts(
            splits,
            {name: matched_pairs(splits[name], generator) for name in ("val", "pairs", "test")},
            classes=CLASSES,
            attributes=ATTRIBUTES,
            input_shape=tuple(vocabulary.vectors.shape[1:]),
            flippable=False,
            fingerprint=fingerprint,
            # The vectors were trained together.
            per_sample_inputs=False,
            vocabulary=vocabulary,
        )

    def _chosen(self, vocabulary: Vocabulary, file: Path) -> tuple[Tensor, Tensor]:
        """Return the rows of the chosen words `[2 words]`, from frequent to rare, and their attributes."""
        if len(vocabulary) < 2 * self.words:
            raise ValueError(
                f"words is {self.words}, but {file} has {len(vocabulary):,} words, fewer than twice as many: ask for "
                "fewer"
            )
        missing = [word for word in self.ends if vocabulary.row(word) is None]
        if missing:
            raise ValueError(
                f"ends is {list(self.ends)}, but {file} has no {' and no '.join(missing)} among its first "
                f"{len(vocabulary):,} words"
            )
        low, high = vocabulary.vectors[vocabulary.rows(self.ends)].double()
        cosine = torch.nn.functional.cosine_similarity(vocabulary.vectors.double(), (high - low)[None], dim=1)
        order = cosine.argsort(stable=True)
        rows = torch.cat([order[: self.words], order[-self.words :]])
        a = torch.arange(2).repeat_interleave(self.words)
        if not float(cosine[order[self.words - 1]]) < 0 < float(cosine[order[-self.words]]):
            raise ValueError(
                f"words is {self.words}, but {int((cosine < 0).sum())} words of {file} are nearer to {self.ends[0]} "
                f"and {int((cosine > 0).sum())} to {self.ends[1]}: ask for fewer"
            )
        rows, by_frequency = rows.sort()
        return rows, a[by_frequency]
