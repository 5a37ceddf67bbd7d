"""What benchmarks ask, against hand-computed likelihoods and the definitions of the published scripts."""

import difflib
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.stereotypes.conftest import NUMBER, encode
from torch import Tensor

from efface.data.crows_pairs import SentencePair
from efface.data.stereoset import Example
from efface.scrubbing.language_models import LanguageModel
from efface.stereotypes.ask import fillers, likelihood, shared_tokens
from efface.stereotypes.benchmarks import crows_pairs_questions, next_sentence_scores, stereoset_questions
from efface.stereotypes.queries import Query, batches, log_probabilities, output_layer, output_states

PAIR = SentencePair("she is a nurse .", "he is a nurse .", "gender")
BLANK = Example(
    "intrasentence", "gender", "she", "she is BLANK .", ("she is kind .", "she is unable .", "she is fox .")
)
BEHIND = Example("intersentence", "gender", "she", "she is a chef .", ("she is kind .", "he is fox .", "fox a ."))


def by_hand(table: Tensor, *words: str, start: bool = True) -> list[float]:
    """Log-probabilities of words, the first one behind `<s>`, or not asked for."""
    numbers = [NUMBER[word] for word in words]
    pairs = [*([(NUMBER["<s>"], numbers[0])] if start else []), *itertools.pairwise(numbers)]
    return [math.log(float(table[last, following])) for last, following in pairs]


def scores(lm: LanguageModel, questions: Any, batch_tokens: int = 16) -> list[float]:
    return questions.scores(log_probabilities(lm, questions.queries, batch_tokens=batch_tokens))


def test_crows_pairs_of_a_causal_model_is_the_likelihood_of_the_sentence(bigrams: LanguageModel, table: Tensor) -> None:
    more, less = scores(bigrams, crows_pairs_questions(bigrams, [PAIR]))
    assert more == pytest.approx(sum(by_hand(table, "she", "is", "a", "nurse", ".")), abs=1e-5)
    assert less == pytest.approx(sum(by_hand(table, "he", "is", "a", "nurse", ".")), abs=1e-5)


def test_stereoset_of_a_causal_model_is_the_mean_log_probability_of_a_token(
    bigrams: LanguageModel, table: Tensor
) -> None:
    values = scores(bigrams, stereoset_questions(bigrams, [BLANK, BEHIND]))
    wanted = [
        by_hand(table, "she", "is", "kind", "."),
        by_hand(table, "she", "is", "un", "able", "."),
        by_hand(table, "she", "is", "fox", "."),
        # Behind the context, of which no token is asked for.
        by_hand(table, ".", "she", "is", "kind", ".", start=False),
        by_hand(table, ".", "he", "is", "fox", ".", start=False),
        by_hand(table, ".", "fox", "a", ".", start=False),
    ]
    assert values == pytest.approx([sum(logs) / len(logs) for logs in wanted], abs=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_likelihood_is_that_of_the_published_scripts(network: Callable[[str], LanguageModel], family: str) -> None:
    """`_joint_log_probability` of Bias Bench and StereoSet's `evaluate_intrasentence`, word by word."""
    lm = network(family)
    texts = ["she is a nurse .", "he is unable", "fox", "a chef is kind . she is a chef . he is a nurse"]
    for text in texts:
        ids = encode(text)[0]
        start = lm.model(torch.tensor([[lm.prefix[0]]])).logits.softmax(-1)
        output = lm.model(torch.tensor([ids])).logits.softmax(-1)
        joint = [start[0, 0, ids[0]].item()]
        joint += [output[0, i - 1, ids[i]].item() for i in range(1, len(ids))]
        answers = log_probabilities(lm, likelihood(lm, text), batch_tokens=64)
        assert torch.cat(answers).tolist() == pytest.approx([math.log(p) for p in joint], abs=1e-4)
    together = [query for text in texts for query in likelihood(lm, text)]
    alone = [log_probabilities(lm, [query], batch_tokens=16)[0] for query in together]
    for batch_tokens in (16, 20, 1000):
        for answer, wanted in zip(log_probabilities(lm, together, batch_tokens=batch_tokens), alone, strict=True):
            assert answer.tolist() == pytest.approx(wanted.tolist(), abs=1e-4)


def published_masked_unigram(lm: LanguageModel, one: str, other: str) -> list[float]:
    """`mask_unigram` of CrowS-Pairs' metric.py, written out."""
    ids = [[*lm.prefix, *encode(text)[0], *lm.suffix] for text in (one, other)]
    spans: tuple[list[int], list[int]] = ([], [])
    for op in difflib.SequenceMatcher(None, *[[str(i) for i in seq] for seq in ids]).get_opcodes():
        if op[0] == "equal":
            spans[0].extend(range(op[1], op[2]))
            spans[1].extend(range(op[3], op[4]))
    totals = []
    for sequence, span in zip(ids, spans, strict=True):
        total = 0.0
        for place in span[1:-1]:
            masked = [*sequence]
            masked[place] = NUMBER["[M]"]
            logits = lm.model(torch.tensor([masked])).prediction_logits[0, place]
            total += float(logits.log_softmax(-1)[sequence[place]])
        totals.append(total)
    return totals


def test_pseudo_likelihood_is_that_of_the_published_script(network: Callable[[str], LanguageModel]) -> None:
    lm = network("bert")
    pairs = [PAIR, SentencePair("a nurse is kind .", "a chef is unable .", "age"), SentencePair("fox", "fox", "age")]
    values = scores(lm, crows_pairs_questions(lm, pairs))
    wanted = [published_masked_unigram(lm, pair.more, pair.less) for pair in pairs]
    assert values == pytest.approx([more for more, _ in wanted] + [less for _, less in wanted], abs=1e-4)
    more, less = shared_tokens(lm, PAIR.more, PAIR.less)
    assert [query.targets for query in more] == [query.targets for query in less]
    assert NUMBER["she"] not in {query.targets[0] for query in more}


def test_a_word_in_the_blank_is_read_from_the_left(network: Callable[[str], LanguageModel]) -> None:
    lm = network("bert")
    kind, unable, _ = fillers(lm, BLANK)
    words = ("<s>", "she", "is", "[M]", ".", "</s>")
    assert kind == [Query(tuple(NUMBER[word] for word in words), (3,), (NUMBER["kind"],))]
    # Of two pieces, the first is asked for without the second, and the second behind the first.
    assert unable[0] == replace(kind[0], targets=(NUMBER["un"],))
    longer = ("<s>", "she", "is", "un", "[M]", ".", "</s>")
    assert unable[1] == Query(tuple(NUMBER[word] for word in longer), (4,), (NUMBER["able"],))
    probabilities = torch.cat(log_probabilities(lm, unable, batch_tokens=16)).exp()
    assert scores(lm, stereoset_questions(lm, [BLANK]))[1] == pytest.approx(float(probabilities.mean()), abs=1e-5)


def test_the_second_head_judges_the_next_sentence(network: Callable[[str], LanguageModel]) -> None:
    lm = network("bert")
    values = next_sentence_scores(lm, [BEHIND], batch_size=2)
    context = [NUMBER["<s>"], *encode(BEHIND.context)[0], NUMBER["</s>"]]
    for value, sentence in zip(values, BEHIND.sentences, strict=True):
        second = [*encode(sentence)[0], NUMBER["</s>"]]
        kinds = torch.tensor([[0] * len(context) + [1] * len(second)])
        output = lm.model(input_ids=torch.tensor([context + second]), token_type_ids=kinds)
        assert value == pytest.approx(float(output.seq_relationship_logits.softmax(-1)[0, 0]), abs=1e-5)


def test_states_are_what_the_output_layer_reads(network: Callable[[str], LanguageModel]) -> None:
    for family in ("llama", "bert"):
        lm = network(family)
        questions = crows_pairs_questions(lm, [PAIR])
        states = output_states(lm, questions.queries, batch_tokens=16)
        logits = output_layer(lm)(states.x)
        ours = logits.log_softmax(1).gather(1, states.y[:, None])[:, 0]
        theirs = torch.cat(log_probabilities(lm, questions.queries, batch_tokens=16))
        assert ours.tolist() == pytest.approx(theirs.tolist(), abs=1e-4)
        assert states.query.tolist() == [i for i, query in enumerate(questions.queries) for _ in query.places]


def test_batches_hold_every_query_once_and_no_more_tokens_than_allowed() -> None:
    queries = [Query((0,) * n, (0,) * places, (0,) * places) for n, places in [(5, 1), (2, 9), (9, 2), (3, 3), (30, 1)]]
    parts = list(batches(queries, 12))
    assert sorted(i for part in parts for i in part) == [0, 1, 2, 3, 4]
    for part in parts:
        width = max(len(queries[i].ids) for i in part)
        assert len(part) == 1 or (width * len(part) <= 12 and sum(len(queries[i].places) for i in part) <= 12)


def test_a_text_longer_than_the_model_reads_is_named(bigrams: LanguageModel) -> None:
    with pytest.raises(ValueError, match=r"'she she .*' … has 13 tokens, but the model reads 12: leave it out"):
        likelihood(bigrams, " ".join(["she"] * 13))
    with pytest.raises(ValueError, match="has no token"):
        likelihood(bigrams, "?")


def test_a_model_without_a_head_or_a_start_token_is_named(bigrams: LanguageModel) -> None:
    with pytest.raises(ValueError, match="Embedding has no language-modelling head"):
        output_layer(replace(bigrams, model=bigrams.model.get_input_embeddings()))  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"names no start token \(bos_token\)"):
        likelihood(replace(bigrams, prefix=()), "she")
