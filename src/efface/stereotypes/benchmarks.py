"""CrowS-Pairs and StereoSet on a language model: what is asked, and the score that each sentence gets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from efface.data.crows_pairs import SentencePair
from efface.data.stereoset import Example
from efface.scrubbing.language_models import LanguageModel
from efface.scrubbing.layerwise import input_device
from efface.stereotypes.ask import fillers, likelihood, shared_tokens, tokens
from efface.stereotypes.queries import Query, require_lengths

Answer = Callable[[Sequence[Query]], list[Tensor]]
"""Answers queries with log-probabilities, such as `log_probabilities` of a model."""
Score = Callable[[Tensor], float]
"""Makes a sentence's score of the log-probabilities of its tokens."""


@dataclass(frozen=True)
class Questions:
    """What is asked of a model, for the scores of some sentences."""

    queries: tuple[Query, ...]
    sentence: tuple[int, ...]
    """The number of the sentence that each query is of."""
    n_sentences: int
    score: Score

    def scores(self, answers: Sequence[Tensor]) -> list[float]:
        """Return the score of each sentence, from the answers to the queries."""
        parts: list[list[Tensor]] = [[] for _ in range(self.n_sentences)]
        for number, answer in zip(self.sentence, answers, strict=True):
            parts[number].append(answer)
        return [self.score(torch.cat(part)) if part else float("-inf") for part in parts]


def crows_pairs_questions(lm: LanguageModel, pairs: Sequence[SentencePair]) -> Questions:
    """Ask for the likelihood of both members of pairs: first those of `more`, then those of `less`.

    A causal model's is that of the whole sentence; a masked model's the pseudo-likelihood of the shared tokens.
    """
    if lm.head == "causal":
        return _questions([likelihood(lm, text) for text in members(pairs)], _sum)
    both = [shared_tokens(lm, pair.more, pair.less) for pair in pairs]
    return _questions([side[i] for i in range(2) for side in both], _sum)


def members(pairs: Sequence[SentencePair]) -> list[str]:
    """Return the stereotyping sentences, and behind them the others."""
    return [pair.more for pair in pairs] + [pair.less for pair in pairs]


def stereoset_questions(lm: LanguageModel, examples: Sequence[Example]) -> Questions:
    """Ask for the score of the three sentences of each example.

    A causal model's is the mean log-probability of a token, of the sentence with its blank filled, or of the sentence
    behind its context. A masked model's is the mean probability of the tokens in the blank. Its intersentence examples
    have no questions of this kind, see `next_sentence_scores`.
    """
    if lm.head == "masked":
        return _questions([queries for example in examples for queries in fillers(lm, example)], _mean_probability)
    asked = [
        likelihood(lm, sentence, example.context if example.task == "intersentence" else "")
        for example in examples
        for sentence in example.sentences
    ]
    return _questions(asked, _mean)


def by_example(scores: Sequence[float]) -> list[list[float]]:
    """Return the scores of sentences, three for each example."""
    return [list(scores[i : i + 3]) for i in range(0, len(scores), 3)]


@torch.no_grad()
def next_sentence_scores(lm: LanguageModel, examples: Sequence[Example], *, batch_size: int = 32) -> list[float]:
    """Return the probability that each of the three sentences follows its context, by a masked model's second head."""
    texts = [(example.context, sentence) for example in examples for sentence in example.sentences]
    rows = [_joined(lm, *pair) for pair in texts]
    device, scores = input_device(lm.model), list[float]()
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        ids, kinds = (
            torch.nn.utils.rnn.pad_sequence([torch.tensor(row[i]) for row in part], True, fill).to(device)
            for i, fill in ((0, lm.pad), (1, 0))
        )
        lengths = torch.tensor([len(row[0]) for row in part])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long().to(device)
        output = lm.model(input_ids=ids, attention_mask=mask, token_type_ids=kinds)
        scores += output.seq_relationship_logits.float().softmax(1)[:, 0].tolist()
    return scores


def _joined(lm: LanguageModel, context: str, sentence: str) -> tuple[list[int], list[int]]:
    """Return a pair of texts as one sequence, and which of the two each token is of."""
    first = [*lm.prefix, *tokens(lm, context), *lm.suffix]
    second = [*tokens(lm, sentence), *lm.suffix]
    require_lengths(lm, [(sentence, len(first) + len(second))])
    return first + second, [0] * len(first) + [1] * len(second)


def _questions(asked: Sequence[Sequence[Query]], score: Score) -> Questions:
    queries = tuple(query for one in asked for query in one)
    return Questions(queries, tuple(i for i, one in enumerate(asked) for _ in one), len(asked), score)


def _sum(logs: Tensor) -> float:
    return float(logs.sum())


def _mean(logs: Tensor) -> float:
    return float(logs.mean())


def _mean_probability(logs: Tensor) -> float:
    return float(logs.exp().mean())
