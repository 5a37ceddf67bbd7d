"""What is measured of a language model: CrowS-Pairs, StereoSet, and its loss on text."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import torch

from efface.data.crows_pairs import CATEGORIES, SentencePair, read_pairs
from efface.data.stereoset import DOMAINS, Example, read_stereoset, stereoset_files
from efface.files import digest
from efface.options import Ge, options
from efface.scrubbing.language_models import LanguageModel
from efface.scrubbing.measure import bits_per_byte
from efface.scrubbing.scrubber import ConceptScrubber
from efface.scrubbing.tokens import TokenData
from efface.stereotypes.benchmarks import (
    Answer,
    by_example,
    crows_pairs_questions,
    next_sentence_scores,
    stereoset_questions,
)
from efface.stereotypes.intervention import Intervention
from efface.stereotypes.queries import log_probabilities, output_layer
from efface.stereotypes.scores import Estimate, prefers_more, stereoset_scores

T = TypeVar("T")
Part = Literal["dev", "test"]
OVERALL = "overall"
CONCEPT = "gender"
"""The domain of StereoSet and category of CrowS-Pairs that methods aim at."""
_TASKS = {"intrasentence": "stereoset", "intersentence": "stereoset_inter"}
"""How the metrics of each task begin."""


@dataclass(frozen=True)
class StereotypeMeasures:
    """Metrics on one part, their intervals, and why some are null."""

    metrics: dict[str, float | None] = field(default_factory=dict)
    intervals: dict[str, list[float]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, estimate: Estimate | None, reason: str) -> None:
        """Note a score, or why there is none."""
        self.metrics[name] = None if estimate is None else estimate.value
        if estimate is None:
            self.reasons[name] = reason
        elif estimate.interval is not None:
            self.intervals[name] = list(estimate.interval)


@options
class StereotypeEvaluation:
    """Evaluates a language model.

    Args:
        crows_pairs: the csv of CrowS-Pairs below the data directory; None not to measure it.
        stereoset: the folder of StereoSet's files below the data directory; None not to measure it.
        per_domain: how many examples of each domain and task, and pairs of each category, to take, drawn at random but
            always the same; all if None. A smaller number takes some of those that a larger one takes.
        dev: measure on StereoSet's dev, and on that of the text, too.
        bits_per_byte: measure the loss of a causal model on the text.
        batch_tokens: tokens that the model reads at a time. Other sums round otherwise in their last digits.
        batch_size: sequences of the text that it reads at a time, also when erasers are fitted.
    """

    crows_pairs: str | None = "crows_pairs/crows_pairs_anonymized.csv"
    stereoset: str | None = "stereoset"
    per_domain: Annotated[int, Ge(1)] | None = None
    dev: bool = True
    bits_per_byte: bool = True
    batch_tokens: Annotated[int, Ge(16)] = 2048
    batch_size: Annotated[int, Ge(1)] = 8

    def fingerprint(self, data_dir: Path) -> str:
        """Return a digest of the files."""
        files = [] if self.crows_pairs is None else [data_dir / self.crows_pairs]
        if self.stereoset is not None:
            folder = data_dir / self.stereoset
            files += [path for part in ("dev", "test") for path in stereoset_files(folder, part).values()]
        return digest(*(path.read_bytes() if path.is_file() else b"" for path in files))

    def examples(self, data_dir: Path, part: Part, *, domain: str | None = None) -> list[Example]:
        """Return the examples of StereoSet to ask for; of one domain, if it is named; none if it is not measured."""
        if self.stereoset is None:
            return []
        rows = read_stereoset(data_dir / self.stereoset, part)
        chosen = [row for row in rows if domain in (None, row.domain)]
        return [row for _, row in self._some(chosen, lambda row: f"{row.task} {row.domain}")]

    def pairs(self, data_dir: Path) -> list[tuple[int, SentencePair]]:
        """Return the pairs of CrowS-Pairs to ask for, with their numbers in the file."""
        if self.crows_pairs is None:
            return []
        return self._some(read_pairs(data_dir / self.crows_pairs), lambda pair: pair.category)

    def answer(self, lm: LanguageModel, *, progress: bool) -> Answer:
        """Return what answers queries to a model."""
        return lambda queries: log_probabilities(lm, queries, batch_tokens=self.batch_tokens, progress=progress)

    def __call__(
        self,
        lm: LanguageModel,
        intervention: Intervention,
        text: TokenData,
        part: Part,
        data_dir: Path,
        *,
        progress: bool = False,
    ) -> StereotypeMeasures:
        """Evaluate a model on one part, with an intervention in place."""
        output_layer(lm)
        measures = StereotypeMeasures()
        with intervention.on(lm):
            answer = self.answer(lm, progress=progress)
            if part == "test" and self.crows_pairs is not None:
                self._crows_pairs(lm, answer, data_dir, intervention.seen, measures)
            if self.stereoset is not None:
                examples = self.examples(data_dir, part)
                stereoset(lm, answer, examples, measures)
            if self.bits_per_byte:
                bits = bits_per_byte(lm, ConceptScrubber(), text, batch_size=self.batch_size, progress=progress)
                reason = "the model predicts hidden tokens, and not the next one"
                measures.add("bits_per_byte", None if bits is None else Estimate(bits, None), reason)
        return measures

    def _crows_pairs(
        self,
        lm: LanguageModel,
        answer: Answer,
        data_dir: Path,
        seen: frozenset[SentencePair],
        measures: StereotypeMeasures,
    ) -> None:
        """Measure CrowS-Pairs over all, in each category, and on the half of the concept's that no method is fitted on.

        Where the method has seen a pair, nothing is measured: it would be measured on what it was fitted on.
        """
        numbered = self.pairs(data_dir)
        questions = crows_pairs_questions(lm, [pair for _, pair in numbered])
        scores = questions.scores(answer(questions.queries))
        rows = [(n, pair, *both) for (n, pair), both in zip(numbered, _halves(scores), strict=True)]
        held_out = [row for row in rows if row[1].category == CONCEPT and not is_for_fitting(row[0])]
        groups = {"crows_pairs": rows, f"crows_pairs_{CONCEPT}_held_out": held_out}
        for category in CATEGORIES:
            of_category = [row for row in rows if row[1].category == category]
            groups[f"crows_pairs_{category.replace('-', '_')}"] = of_category
        for name, group in groups.items():
            spoilt = any(row[1] in seen for row in group)
            reason = "the method was fitted on some of its pairs" if spoilt else "it has no pair"
            measures.add(name, None if spoilt else _preference(group), reason)

    def _some(self, rows: Sequence[T], group: Callable[[T], str]) -> list[tuple[int, T]]:
        """Return `per_domain` rows of each group with their numbers, drawn at random, in their order."""
        groups: dict[str, list[int]] = {}
        for i, row in enumerate(rows):
            groups.setdefault(group(row), []).append(i)
        chosen = set[int]()
        for name, numbers in groups.items():
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            order = torch.randperm(len(numbers), generator=generator).tolist()
            chosen |= {numbers[i] for i in order[: self.per_domain]}
        return [(i, rows[i]) for i in sorted(chosen)]


def is_for_fitting(number: int) -> bool:
    """Return whether a method may be fitted on the pair of this number of CrowS-Pairs: every other one."""
    return number % 2 == 0


def stereoset(lm: LanguageModel, answer: Answer, examples: Sequence[Example], measures: StereotypeMeasures) -> None:
    """Measure StereoSet on examples, over all domains and in each, of either task."""
    for task, begin in _TASKS.items():
        of_task = [example for example in examples if example.task == task]
        if not of_task:
            continue
        scores = _scores(lm, answer, of_task)
        for domain in (OVERALL, *DOMAINS):
            rows = [i for i, example in enumerate(of_task) if domain in (OVERALL, example.domain)]
            name = begin if domain == OVERALL else f"{begin}_{domain}"
            for key, estimate in _estimates(of_task, scores, rows):
                reason = "it has no example" if scores is not None else "the model has no head for the next sentence"
                measures.add(f"{name}_{key}", estimate, reason)


def _scores(lm: LanguageModel, answer: Answer, examples: Sequence[Example]) -> list[list[float]] | None:
    """Return the scores of the sentences of each example; None where the model can give none."""
    if lm.head == "masked" and examples[0].task == "intersentence":
        has_head = hasattr(getattr(lm.model, "cls", None), "seq_relationship")
        return by_example(next_sentence_scores(lm, examples)) if has_head else None
    questions = stereoset_questions(lm, examples)
    return by_example(questions.scores(answer(questions.queries)))


def _estimates(
    examples: Sequence[Example], scores: Sequence[Sequence[float]] | None, rows: Sequence[int]
) -> Iterator[tuple[str, Estimate | None]]:
    if scores is None or not rows:
        yield from dict.fromkeys(("lms", "ss", "icat")).items()
    else:
        yield from vars(stereoset_scores([examples[i].target for i in rows], [scores[i] for i in rows])).items()


def _halves(scores: Sequence[float]) -> list[tuple[float, float]]:
    half = len(scores) // 2
    return list(zip(scores[:half], scores[half:], strict=True))


def _preference(rows: Sequence[tuple[int, SentencePair, float, float]]) -> Estimate | None:
    return prefers_more([row[2] for row in rows], [row[3] for row in rows]) if rows else None
