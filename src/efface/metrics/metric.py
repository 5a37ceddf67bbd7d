"""What is said of a metric."""

from typing import Literal, NamedTuple

Direction = Literal["higher", "lower", "zero", "one"]
Needs = Literal["", "binary attribute", "binary label and attribute", "binary attribute, three labels"]

EMPTY_GROUP = "a group that it compares has no sample"
PROBES_OFF = "probes are switched off (evaluation.probe)"


class Metric(NamedTuple):
    """One metric of a record. Tables show metrics in the order of `METRICS`."""

    key: str
    """Its name in a record."""
    heading: str
    """Its name in a table, without arrow."""
    formula: str
    """What it is, in one sentence."""
    source: str
    """The paper or package that defines it; empty if it is ours."""
    direction: Direction | Literal[""]
    """Which side is better, or which value is fair; empty if neither."""
    per: Literal["", "group", "label"] = ""
    """What the keys stand for, where the record holds a dict of numbers."""
    needs: Needs = ""
    """The labels and attributes for which it is defined; empty if for all."""
    undefined: str = EMPTY_GROUP
    """Why it is null where its needs are met."""
