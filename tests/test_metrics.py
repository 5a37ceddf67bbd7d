import pytest

from efface.metrics import METRICS, objective_direction, reason_undefined


def test_keys_and_headings_are_unique() -> None:
    assert len({metric.key for metric in METRICS}) == len({metric.heading for metric in METRICS}) == len(METRICS)


def test_objective_direction_is_that_of_the_metric() -> None:
    wanted = {
        "accuracy": "higher",
        "counterfactual_bias": "lower",
        "tpr_gap_correlation": "zero",
        "disparate_impact": "one",
    }
    assert {name: objective_direction(name) for name in wanted} == wanted


@pytest.mark.parametrize("name", ["acuracy", "group_accuracy", "tpr_gap", "probe_majority"])
def test_objective_direction_refuses_what_has_no_better_side_or_many_numbers(name: str) -> None:
    with pytest.raises(ValueError, match=f"objective is '{name}', but must be one of accuracy, unbiased_accuracy"):
        objective_direction(name)


def test_reason_undefined_names_the_need_that_is_not_met() -> None:
    binary = {"binary_label": True, "binary_attribute": True}
    for key in ("theil_index", "disparate_impact"):
        assert reason_undefined(key, binary_label=False, binary_attribute=True).startswith("defined for a binary label")
    assert reason_undefined("tpr_gap_rms", binary_label=True, binary_attribute=False).endswith("a binary attribute")
    assert "three labels" in reason_undefined("tpr_gap_correlation", **binary)
    assert "a = 1" in reason_undefined("disparate_impact", **binary)
    assert "no sample" in reason_undefined("of a package to come", **binary)
