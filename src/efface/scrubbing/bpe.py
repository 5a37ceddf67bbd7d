"""A tokeniser trained on the text at hand."""

import json
from collections.abc import Sequence


def train_bpe(texts: Sequence[str], vocab_size: int) -> str:
    """Train a byte-level BPE tokeniser; return it as JSON. Token 0 starts a sequence, token 1 is padding."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<s>", "<pad>"],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return json.dumps(json.loads(tokenizer.to_str()))
