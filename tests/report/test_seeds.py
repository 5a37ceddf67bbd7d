import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from efface.report.seeds import best_and_tied, holm, interval, paired_t, spread


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=12))
@settings(max_examples=50, deadline=None)
def test_the_interval_holds_the_mean_and_repeats(values: list[float]) -> None:
    array = np.array(values)
    low, high = interval(array)
    assert array.min() - 1e-9 <= low <= array.mean() + 1e-9
    assert array.mean() - 1e-9 <= high <= array.max() + 1e-9
    assert (low, high) == interval(array)


def test_the_interval_is_scipys_up_to_its_draws() -> None:
    values = np.random.default_rng(1).normal(size=30)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(2)).confidence_interval
    np.testing.assert_allclose(interval(values), (theirs.low, theirs.high), atol=0.03)


def test_one_run_has_no_spread() -> None:
    assert spread(np.array([0.5]), "std") == spread(np.array([0.5]), "interval") == (0, 0)
    assert spread(np.array([0.0, 1.0]), "std")[0] == pytest.approx(0.5**0.5)


def test_the_t_test_is_scipys() -> None:
    one, other = np.random.default_rng(0).normal(size=(2, 7))
    assert paired_t(one - other) == pytest.approx(stats.ttest_rel(one, other).pvalue)
    assert paired_t(np.zeros(5)) == 1
    assert paired_t(np.full(5, 0.1)) == 0


def test_holm_steps_down() -> None:
    # Bonferroni would keep .02; without correction .04 would go too.
    assert holm({"a": 0.001, "b": 0.02, "c": 0.04, "d": 0.5}) == {"a"}
    assert holm({"a": 0.001, "b": 0.016, "c": 0.02}) == {"a", "b", "c"}
    assert holm({"a": 0.06, "b": 0.001}) == {"b"}
    assert holm({}) == set()


def rows(**means: float) -> dict[str, dict[int, float]]:
    """Five seeds each: the same ups and downs, and a little of their own."""
    shared = np.random.default_rng(0).normal(scale=0.05, size=5)
    own = np.random.default_rng(1).normal(scale=0.002, size=(len(means), 5))
    return {name: dict(enumerate(mean + shared + o)) for (name, mean), o in zip(means.items(), own, strict=True)}


def test_ties_are_those_that_a_paired_test_does_not_tell_from_the_best() -> None:
    # Unpaired, the shared ups and downs would hide the difference of "worse".
    assert best_and_tied(rows(best=0.8, near=0.7995, worse=0.78), "higher") == ({"best"}, {"near"})
    assert best_and_tied(rows(best=0.2, near=0.2005, worse=0.22), "lower") == ({"best"}, {"near"})


def test_differences_and_ratios_are_best_near_their_fair_value() -> None:
    table = {"a": {0: -0.1, 1: 0.1}, "b": {0: 0.02, 1: 0.02}, "c": {0: -0.3, 1: -0.3}}
    assert best_and_tied(table, "zero")[0] == {"b"}  # the mean of a is 0, but no run of it is
    ratios = {row: {seed: value + 1 for seed, value in values.items()} for row, values in table.items()}
    assert best_and_tied(ratios, "one")[0] == {"b"}


def test_without_enough_common_seeds_nothing_is_tied() -> None:
    table = rows(best=0.8, near=0.7995)
    del table["near"][0]
    assert best_and_tied(table, "higher") == ({"best"}, set())
    table["near"][9] = 0.79  # five again, but four in common
    assert best_and_tied(table, "higher") == ({"best"}, set())


def test_equal_rows_share_the_best_and_one_row_is_no_contest() -> None:
    same = {0: 0.5, 1: 0.6}
    assert best_and_tied({"a": same, "b": dict(same), "c": {0: 0.1}}, "higher")[0] == {"a", "b"}
    assert best_and_tied({"a": same, "b": {}}, "higher") == (set(), set())
    assert best_and_tied({"a": same, "b": {0: 0.1}}, "") == (set(), set())
