"""Passports name groups by the values of the data, and say what sampling error leaves."""

from pathlib import Path
from typing import Any

import pytest
from tests.passport.conftest import record_of

from efface.passport import Passport, passport_of
from efface.passport.facts import Facts
from efface.passport.limits import limits
from efface.passport.render import html, markdown
from efface.passport.schema import Guarantee
from efface.record import Record

GROUPS = {(y, a): 10 for y in (0, 1) for a in (0, 1)}


def facts_of(results: Path, dataset: dict[str, Any], **info: Any) -> Facts:
    """Facts of the LEACE run, with another data set's options, and other entries of info."""
    record = Record.read(record_of(results, "leace"))
    record = record.model_copy(
        update={"config": {**record.config, "dataset": dataset}, "info": {**record.info, **info}}
    )
    return Facts(record=record, digest="0", test_groups=GROUPS, base=None, base_digest=None, base_reason="")


@pytest.mark.parametrize(
    ("dataset", "target", "classes", "attributes", "expected"),
    [
        ({"protected": ["sex"]}, "income", ("<=50K", ">50K"), ("F", "M"), "income=>50K, sex=F"),
        ({"attributes": ["Male"]}, "Young", ("not Young", "Young"), ("not Male", "Male"), "Young, not Male"),
        ({"protected": ["sex", "age"]}, "y", ("0", "1"), ("F, old", "M, old"), "y=1, sex and age=F, old"),
        ({"protected": ["a"]}, "y", ("0", "1"), ("female", "male"), "y=1, a=female"),
        ({"name": "memory"}, None, ("no", "yes"), ("f", "a man"), "y=yes, a=f"),
    ],
)
def test_groups_have_the_names_of_their_values(
    finished: Path, dataset: dict[str, Any], target: str, classes: Any, attributes: Any, expected: str
) -> None:
    names = {"target": target, "classes": classes, "attributes": attributes}
    known = facts_of(finished, dataset, names=names).names
    assert known["y=1,a=0"] == expected
    assert expected.startswith(known["y=1"])


def test_groups_without_names_or_of_one_name_keep_their_numbers(finished: Path) -> None:
    record = Record.read(record_of(finished, "leace"))
    info = {key: value for key, value in record.info.items() if key != "names"}
    old = record.model_copy(update={"info": info})
    empty = {"test_groups": GROUPS, "base": None, "base_digest": None, "base_reason": ""}
    assert Facts(record=old, digest="0", **empty).names == {}
    twice = {"target": "y", "classes": ("b", "b"), "attributes": ("f", "m")}
    assert facts_of(finished, {"protected": ["sex"]}, names=twice).names == {}


def test_names_are_on_both_pages_without_their_markup(finished: Path) -> None:
    passport = passport_of(record_of(finished, "leace").parent)
    assert passport.data.names["y=3"] == "y=3"
    assert passport.data.names["y=3,a=1"] == "y=3, a=colour of 1"
    assert "y=3, a=colour of" in markdown(passport)
    (accuracy,) = [figure for figure in passport.figures if figure.key == "group_accuracy"]
    group = min(accuracy.parts, key=lambda name: accuracy.parts[name] or 0)  # one of those that are listed
    data = passport.data.model_copy(update={"names": {group: "<b>|x|\n*y*"}})
    hostile = Passport.model_validate(passport.model_copy(update={"data": data}).model_dump())
    assert r"\<b>\|x\| \*y\*" in markdown(hostile)
    assert "&lt;b&gt;|x|" in html(hostile)
    assert "<b>|x|" not in html(hostile)


def sentences(facts: Facts) -> str:
    guarantee = Guarantee(kind="linear", statement="")
    return " ".join(limits(facts, guarantee))


def test_sampling_error_is_a_number_only_where_samples_suffice(finished: Path) -> None:
    few = sentences(facts_of(finished, {}, n_eff=60.0, d=2048, dropped_columns=0))
    assert "These are 60 (weights taken into account), too few for 2,048 features to say" in few
    assert "Twice as many samples" not in few
    many = sentences(facts_of(finished, {}, n_eff=1e6, d=2048))
    assert "sampling error alone leaves about" in many
    assert "too few" not in many
