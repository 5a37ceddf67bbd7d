"""Word vectors in GloVe's format, and word lists, small enough for a test: real words, vectors that are drawn."""

import gzip
import json
from pathlib import Path

import numpy as np

MALE, FEMALE = ("john", "paul", "mike", "kevin"), ("amy", "joan", "lisa", "sarah")
CAREER, FAMILY, ARTS = ("office", "salary"), ("home", "parents"), ("poetry", "dance")
DIMENSIONS = 6


def vectors(n: int = 400) -> dict[str, np.ndarray]:
    """Words from frequent to rare; the first coordinate is gender."""
    rng = np.random.default_rng(0)
    named = ["he", "she", *MALE, *FEMALE, *CAREER, *FAMILY, *ARTS]
    made = {word: rng.normal(size=DIMENSIONS).round(5) for word in [*named, *(f"w{i}" for i in range(n - len(named)))]}
    for words, gender in ((("he", *MALE, *CAREER), 2.0), (("she", *FEMALE, *FAMILY, *ARTS), -2.0)):
        for word in words:
            made[word][0] = gender
    return made


def lines(words: dict[str, np.ndarray]) -> list[str]:
    """The lines of a file."""
    return [" ".join([word, *(f"{value:g}" for value in vector)]) for word, vector in words.items()]


def write(folder: Path, text: list[str] | None = None) -> Path:
    """Write everything that `dataset=glove evaluation=word_embeddings` reads; return the folder."""
    for name in ("glove", "weat", "simlex"):
        (folder / name).mkdir(exist_ok=True)
    text = lines(vectors()) if text is None else text
    (folder / "glove" / "glove.6B.100d.txt.gz").write_bytes(gzip.compress("\n".join([*text, ""]).encode()))
    names = ([word.title() for word in MALE], [word.title() for word in FEMALE])
    for file, sets in {
        "weat6": (*names, CAREER, FAMILY),
        "weat7b": (CAREER, ARTS, *names),
        "weat8b": (("physics", "nasa", "office"), ARTS, *names),
    }.items():
        roles = zip(("targ1", "targ2", "attr1", "attr2"), sets, strict=True)
        content = {role: {"category": role, "examples": list(words)} for role, words in roles}
        (folder / "weat" / f"{file}.jsonl").write_text(json.dumps(content))
    pairs = ["# a comment", "office\thome\t1.5", "salary\toffice\t7", "poetry\tdance\t6", "parents\tzygote\t3"]
    (folder / "simlex" / "simlex999.txt").write_text("\n".join(pairs) + "\n")
    return folder
