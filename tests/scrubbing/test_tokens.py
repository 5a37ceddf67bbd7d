import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from efface.data.conllu import Document, TaggedText
from efface.scrubbing.language_models import LanguageModel
from efface.scrubbing.tokens import UNLABELLED, Batches, align, tokenise


def bytewise(text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """A token for each byte; those of one character all stand for it."""
    pairs = [(byte, (i, i + 1)) for i, character in enumerate(text) for byte in character.encode()]
    return [byte for byte, _ in pairs], [offset for _, offset in pairs]


def test_token_has_the_label_of_the_word_it_covers_most() -> None:
    text = "I can't, Éva"
    words = [(0, 1, "PRON"), (2, 4, "AUX"), (4, 7, "PART"), (7, 8, "PUNCT"), (9, 12, "PROPN")]
    offsets = [(0, 1), (1, 5), (4, 7), (7, 9), (8, 9), (8, 10), (10, 12), (5, 8)]
    labels = ["PRON", "AUX", "PART", "PUNCT", None, "PROPN", "PROPN"]
    assert align(text, words, offsets[:7]) == labels
    assert align(text, words, [(3, 5)]) == ["AUX"]  # the first of equals
    assert align(text, words, offsets[7:]) == ["PART"]
    assert align(text, [], offsets[:2]) == [None, None]


@given(st.text(alphabet="aé漢 \n", min_size=1, max_size=40), st.integers(3, 9))
def test_bytes_are_counted_exactly_once(text: str, max_length: int) -> None:
    start = next((i for i, c in enumerate(text) if not c.isspace()), None)
    words = () if start is None else ((start, start + 1, "X"),)
    data = tokenise([Document(text, words)], ["X"], bytewise, max_length=max_length, prefix=[256], suffix=[257])
    assert int(data.n_bytes.sum()) == len(text.encode())
    body = data.input_ids[data.n_bytes.ge(0) & (data.input_ids < 256) & (data.attention_mask > 0)]
    assert bytes(body.tolist()).decode() == text
    assert (data.input_ids[:, 0] == 256).all()
    assert int((data.input_ids == 257).sum()) == len(data)
    assert int((data.z >= 0).sum()) == (0 if start is None else len(text[start].encode()))
    assert (data.z[data.attention_mask == 0] == UNLABELLED).all()


def test_real_tokens_agree_with_their_words(lm: LanguageModel, text: TaggedText) -> None:
    """Read back: the tokens of each label, run together, are the words of that label."""
    data = lm.tokenise(text.test, text.tags)
    document = text.test[0]
    ids, offsets = lm.encode(document.text)
    labels = align(document.text, document.words, offsets)
    for tag in ("NOUN", "PUNCT", "SYM", "PROPN"):
        covered = "".join(
            document.text[i:j].strip() for (i, j), label in zip(offsets, labels, strict=True) if label == tag
        )
        assert covered == "".join(document.text[i:j] for i, j, label in document.words if label == tag)
    assert int(data.n_bytes.sum()) == sum(len(d.text.encode()) for d in text.test)
    assert max(ids) > 256  # some tokens are longer than a byte


def test_bad_documents(text: TaggedText) -> None:
    with pytest.raises(ValueError, match="have the tags NOUN"):
        tokenise([Document("cat", ((0, 3, "NOUN"),))], ["VERB"], bytewise, max_length=8)
    with pytest.raises(ValueError, match="hold no token"):
        tokenise([Document("", ())], ["VERB"], bytewise, max_length=8)
    with pytest.raises(ValueError, match="max_length is 2"):
        tokenise([Document("a", ())], ["VERB"], bytewise, max_length=2, prefix=[1], suffix=[2])


def test_data_sets_and_tensors_give_the_same_batches() -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"input_ids": [[1, 2, 3], [4, 5]], "pos": [[0, 1, -100], [2, 0]]}
    features = datasets.Features(
        {
            "input_ids": datasets.Sequence(datasets.Value("int64")),
            "pos": datasets.Sequence(datasets.ClassLabel(names=["a", "b", "c", "d"])),
        }
    )
    rows_of_labels = {**rows, "pos": [[0, 1, 1], [2, 0]]}
    declared = Batches(datasets.Dataset.from_dict(rows_of_labels, features=features), "pos", 2)
    assert declared.n_labels() == 4
    plain = Batches(datasets.Dataset.from_dict(rows), "pos", 2)
    assert plain.n_labels() == 3
    tensors = {
        "input_ids": torch.tensor([[1, 2, 3], [4, 5, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]]),
        "pos": torch.tensor([[0, 1, -100], [2, 0, 7]]),  # a label on padding is none
    }
    one, other = plain[0], Batches(tensors, "pos", 2)[0]
    assert torch.equal(one.input_ids, other.input_ids)
    assert torch.equal(one.attention_mask, other.attention_mask)
    assert torch.equal(one.labelled, other.labelled)
    assert Batches(tensors, "pos", 2).n_labels() == 3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"input_ids": torch.zeros(0, 3), "pos": torch.zeros(0, 3)}, "train is empty"),
        ({"input_ids": torch.zeros(2, 3), "pos": torch.zeros(2, 4)}, "sequence 0 has 3 tokens, but 4 values in 'pos'"),
        ({"input_ids": torch.zeros(2, 3), "pos": torch.zeros(1, 3)}, "'pos' has 1 sequences"),
        ({"input_ids": torch.zeros(2, 3)}, "no column 'pos', only 'input_ids'"),
        ({"input_ids": torch.zeros(2, 3), "pos": -torch.ones(2, 3)}, "labels no token"),
        ({"input_ids": torch.zeros(2, 3), "pos": torch.full((2, 3), 0.5)}, "'pos' has values of torch.float32"),
        ({"input_ids": torch.zeros(2, 3), "pos": torch.ones(2, 3) > 0}, "'pos' has values of torch.bool that are no"),
        ({"input_ids": torch.full((2, 3), 1.5), "pos": torch.zeros(2, 3)}, "'input_ids' has values of torch.float32"),
        ({"input_ids": [[0, 1.5]], "pos": [[0, 1]]}, "'input_ids' has values of torch.float32"),
        (
            {"input_ids": torch.zeros(2, 3), "attention_mask": torch.ones(2, 2), "pos": torch.zeros(2, 3)},
            "sequence 0 has 3 tokens, but 2 values in 'attention_mask'",
        ),
        (
            {"input_ids": torch.zeros(2, 3), "attention_mask": 2 * torch.ones(2, 3), "pos": torch.zeros(2, 3)},
            "attention_mask goes from 2 to 2, but must be 0 or 1",
        ),
        ({"input_ids": [[0, 1]], "pos": [[0, None]]}, "'pos' is a list that torch cannot read"),
        ({"input_ids": [[0, 1]], "pos": [["noun", "verb"]]}, "'pos' is a list that torch cannot read"),
        ({"input_ids": [[0, 1]], "pos": [0]}, "sequence 0 has 2 tokens, but 1 values in 'pos'"),
        ({"input_ids": torch.zeros(2, 3), "pos": torch.zeros(2)}, "sequence 0 has 3 tokens, but 1 values in 'pos'"),
    ],
)
def test_bad_columns(data: dict, message: str) -> None:
    """Covers faults C4, `scrub`."""
    with pytest.raises(ValueError, match=message):
        Batches(data, "pos", 2).n_labels() if "labels no" in message else Batches(data, "pos", 2)[0]


def test_tokens_of_another_vocabulary_are_refused() -> None:
    """Covers faults C4, `scrub`."""
    batches = Batches({"input_ids": torch.tensor([[1, 2], [3, -1]])}, None, 1, vocabulary=3)
    assert batches[0].input_ids.tolist() == [[1, 2]]
    with pytest.raises(ValueError, match=r"input_ids go from -1 to 3, but the model knows 0 … 2"):
        batches[1]


def test_labels_far_beyond_their_number_are_refused() -> None:
    """Covers faults C4: a class of number 10⁹ would make room for as many."""
    data = {"input_ids": torch.zeros(2, 3), "pos": torch.tensor([[0, 1, -100], [10**9, 0, 0]])}
    with pytest.raises(ValueError, match=r"'pos' has 5 labels up to 1000000000: number the classes"):
        Batches(data, "pos", 2).n_labels()
