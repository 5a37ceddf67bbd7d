"""Why a metric has no value: what the record says, or what follows from the kind of run."""

import json

import pandas as pd

from efface.metrics import reason_undefined

_OLDER = "not recorded by the version of efface that wrote these runs"
_ON_TEXT = ("bits_per_byte", "max_abs_cov", "probe_information", "probe_accuracy", "probe_majority")
"""Metrics of language models that are scrubbed."""


def reason(done: pd.DataFrame, key: str) -> str:
    """Return why finished runs have no value of a metric.

    Args:
        done: the runs, all without a value.
        key: the metric.
    """
    for text in done.get("reasons", pd.Series(dtype=object)).dropna():
        if key in (recorded := json.loads(text)):
            return " ".join(str(recorded[key]).split())
    scrubbed = "accuracy" not in done or bool(done["accuracy"].isna().all())  # every run of the grid has an accuracy
    if not scrubbed:
        return "defined for language models" if key == "bits_per_byte" else _OLDER
    if key not in _ON_TEXT:
        return "not defined for language models"
    if key == "max_abs_cov":
        return "nothing was erased" if set(done["method_name"]) == {"none"} else _OLDER
    return reason_undefined(key, binary_label=False, binary_attribute=False)
