"""StereoSet: a context with a stereotype, an anti-stereotype and an unrelated sentence (Nadeem et al., ACL 2021)."""

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Task = Literal["intrasentence", "intersentence"]
TASKS: tuple[Task, ...] = ("intrasentence", "intersentence")
DOMAINS = ("gender", "profession", "race", "religion")
LABELS = ("stereotype", "anti-stereotype", "unrelated")
BLANK = "BLANK"


@dataclass(frozen=True)
class Example:
    """One context and its three sentences."""

    task: Task
    domain: str
    target: str
    """The term that is spoken of; scores are means over terms."""
    context: str
    """With `BLANK` in place of a word; of an intersentence test, the sentence before."""
    sentences: tuple[str, str, str]
    """In the order of `LABELS`."""


def stereoset_files(folder: Path, part: Literal["dev", "test"]) -> dict[Task, Path]:
    """Return the files of the two tasks, plain or gzipped.

    Raises:
        FileNotFoundError: one is not there.
    """
    files: dict[Task, Path] = {}
    for task in TASKS:
        names = [f"{part}_{task}.json{end}" for end in ("", ".gz")]
        present = [folder / name for name in names if (folder / name).is_file()]
        if not present:
            raise FileNotFoundError(
                f"no file {' or '.join(names)} in {folder.resolve()}: give StereoSet "
                "(https://huggingface.co/datasets/McGill-NLP/stereoset) as JSON, a list for each task"
            )
        files[task] = present[0]
    return files


def read_stereoset(folder: Path, part: Literal["dev", "test"]) -> tuple[Example, ...]:
    """Return the examples of both tasks, intrasentence first, in the order of the files.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file is not in this format; the message names it, and the example.
    """
    return tuple(
        _example(row, task, f"{path}, example {number}")
        for task, path in stereoset_files(folder, part).items()
        for number, row in enumerate(_rows(path), 1)
    )


def _rows(path: Path) -> list[Any]:
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            rows = json.load(file)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{path} must hold a list of examples")
    return rows


def _example(row: Any, task: Task, where: str) -> Example:
    try:
        sentences = {sentence["gold_label"]: sentence["sentence"].strip() for sentence in row["sentences"]}
        example = Example(
            task, row["bias_type"], row["target"], row["context"].strip(), tuple(sentences[name] for name in LABELS)
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{where} is not in StereoSet's format ({type(error).__name__}: {error}): give bias_type, target, context "
            f"and sentences with the gold labels {', '.join(LABELS)}"
        ) from error
    if task == "intrasentence" and BLANK not in example.context:
        raise ValueError(f"{where}: the context must hold {BLANK}, but is {example.context!r}")
    return example
