"""What CrowS-Pairs and StereoSet ask of causal and of masked language models, as the published scripts ask it.

Of a causal model, the first token of a text has its probability behind the start token alone, and the others theirs
behind the text before them, without a start token (Nadeem et al., 2021; Meade et al., 2022). Of a masked model, tokens
are masked one at a time.
"""

import string
from collections.abc import Sequence
from difflib import SequenceMatcher

from efface.data.stereoset import BLANK, Example
from efface.scrubbing.language_models import LanguageModel
from efface.stereotypes.queries import Query, require_lengths


def tokens(lm: LanguageModel, text: str) -> list[int]:
    """Return the ids of a text, without special tokens."""
    return lm.encode(text)[0]


def start_token(lm: LanguageModel) -> int:
    """Return the token that a causal model's texts start with.

    Raises:
        ValueError: there is none.
    """
    if not lm.prefix:
        raise ValueError(
            "model: its tokeniser names no start token (bos_token), behind which the first token of a text has its "
            "probability: name one in its tokenizer_config.json"
        )
    return lm.prefix[0]


def likelihood(lm: LanguageModel, text: str, behind: str = "") -> list[Query]:
    """Ask a causal model for every token of a text.

    Args:
        lm: the model.
        text: the text.
        behind: a text before it, which is read and not asked for.

    Raises:
        ValueError: the text has no token, or is longer than the model reads.
    """
    ids, offsets = lm.encode(f"{behind} {text}" if behind else text)
    # A token that begins in the blank between the two belongs to the second.
    first = sum(end <= len(behind) for _, end in offsets) if behind else 0
    require_lengths(lm, [(text, len(ids))])
    if first == len(ids):
        raise ValueError(f"{text!r} has no token: leave it out of the file")
    queries = [Query((start_token(lm),), (0,), (ids[0],))] if first == 0 else []
    places = range(max(first, 1), len(ids))
    if len(places):
        queries.append(Query(tuple(ids[:-1]), tuple(i - 1 for i in places), tuple(ids[i] for i in places)))
    return queries


def shared_tokens(lm: LanguageModel, one: str, other: str) -> tuple[list[Query], list[Query]]:
    """Ask a masked model for each token that two sentences share, in both of them (Nangia et al., 2020).

    Returns:
        The queries of either sentence, equally many; a token alone is masked in each.
    """
    sequences = [list(with_specials(lm, tokens(lm, text))) for text in (one, other)]
    require_lengths(lm, [(text, len(ids)) for text, ids in zip((one, other), sequences, strict=True)])
    blocks = SequenceMatcher(None, sequences[0], sequences[1]).get_matching_blocks()
    shared = [(block.a + i, block.b + i) for block in blocks for i in range(block.size)][1:-1]
    sides = zip(sequences, zip(*shared, strict=True) if shared else ((), ()), strict=True)
    first, second = ([masked_at(lm, ids, place) for place in places] for ids, places in sides)
    return first, second


def fillers(lm: LanguageModel, example: Example) -> list[list[Query]]:
    """Ask a masked model for the word in the blank of each of three sentences, token by token from the left.

    Of a word of several tokens, those before the one that is asked for are there, and those behind it are not.
    """
    queries = []
    for sentence in example.sentences:
        before, word, after = _around_blank(example.context, sentence)
        ids, offsets = lm.encode(before + word + after)
        inside = [i for i, (start, end) in enumerate(offsets) if end > len(before) and start < len(before + word)]
        behind = ids[inside[-1] + 1 :] if inside else []
        asked = []
        for place in inside:
            sequence = with_specials(lm, [*ids[:place], ids[place], *behind])
            asked.append(masked_at(lm, sequence, len(lm.prefix) + place))
        require_lengths(lm, [(sentence, len(query.ids)) for query in asked])
        queries.append(asked)
    return queries


def with_specials(lm: LanguageModel, ids: Sequence[int]) -> tuple[int, ...]:
    """Return a sequence between its special tokens."""
    return (*lm.prefix, *ids, *lm.suffix)


def masked_at(lm: LanguageModel, ids: Sequence[int], place: int) -> Query:
    """Ask for the token at one place of a sequence, which is masked there."""
    assert lm.mask is not None
    return Query((*ids[:place], lm.mask, *ids[place + 1 :]), (place,), (ids[place],))


def _around_blank(context: str, sentence: str) -> tuple[str, str, str]:
    """Return a context's text before its last blank, the word that a sentence has there, and the text behind it.

    Words are what stands between blanks in a line, as the published script takes them, without punctuation.
    """
    words = context.split(" ")
    number = max(i for i, word in enumerate(words) if BLANK in word)
    filled = sentence.split(" ")
    word = filled[number].strip(string.punctuation) if number < len(filled) else ""
    before, _, after = context.rpartition(BLANK)
    return before.replace(BLANK, word), word, after
