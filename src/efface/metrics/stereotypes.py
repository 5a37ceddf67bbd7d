"""Metrics of the stereotypes of language models: StereoSet in each domain and task, CrowS-Pairs in each category."""

from collections.abc import Iterator

from efface.metrics.metric import Direction, Metric

_TASKS = {
    "stereoset": ("StereoSet", "a word in a blank"),
    "stereoset_inter": ("StereoSet inter", "a sentence behind a context"),
}
_DOMAINS = ("", "gender", "profession", "race", "religion")
_SCORES: dict[str, tuple[str, str, Direction | str]] = {
    "lms": ("LM score", "share in which a meaningful text scores above the unrelated one", "higher"),
    "ss": ("stereotype score", "share in which the stereotype scores above the anti-stereotype; .5 is fair", ""),
    "icat": ("ICAT", "LM score · min(s, 1 − s) / .5, s the stereotype score", "higher"),
}
_HELD_OUT = "gender_held_out"
_CATEGORIES = (
    *("", "race_color", "gender", _HELD_OUT, "socioeconomic", "nationality", "religion", "age"),
    *("sexual_orientation", "physical_appearance", "disability"),
)
_NOT_MEASURED = "the evaluation leaves it out"


def _joined(*words: str, by: str) -> str:
    """Join the words that are not empty."""
    return by.join(filter(None, words))


def _stereoset() -> Iterator[Metric]:
    for task, (name, what) in _TASKS.items():
        for domain in _DOMAINS:
            for key, (score, formula, direction) in _SCORES.items():
                yield Metric(
                    _joined(task, domain, key, by="_"),
                    _joined(name, domain, score, by=" "),
                    f"{_joined(what, domain, by=', ')}: {formula}; mean over terms of the means over their examples",
                    "Nadeem, Bethke & Reddy, 2021 (StereoSet)",
                    direction,  # type: ignore[arg-type]
                    undefined=_NOT_MEASURED,
                )


def _crows_pairs() -> Iterator[Metric]:
    for category in _CATEGORIES:
        which = " that no method is fitted on, every other one" if category == _HELD_OUT else ""
        name = category.replace("_", " ")
        yield Metric(
            _joined("crows_pairs", category, by="_"),
            _joined("CrowS-Pairs", name, by=" "),
            _joined(f"share of pairs{which} of which the stereotyping sentence is likelier; .5 is fair", name, by=": "),
            "Nangia et al., 2020 (CrowS-Pairs)",
            "",
            undefined=_NOT_MEASURED,
        )


STEREOTYPES = (*_stereoset(), *_crows_pairs())
