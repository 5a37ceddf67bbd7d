import numpy as np
import pytest
from scipy import stats

from efface.report.seeds import best_and_tied, holm, interval, paired_t, spread


@pytest.mark.parametrize("n", [2, 3, 10])
def test_interval_is_scipys(n: int) -> None:
    values = np.random.default_rng(n).normal(size=n)
    theirs = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    np.testing.assert_allclose(interval(values), theirs, rtol=1e-12)


def test_interval_covers_the_mean_95_times_in_100_at_three_seeds() -> None:
    """Covers audit B3."""
    trials = np.random.default_rng(0).normal(size=(4000, 3))
    low, high = np.array([interval(values) for values in trials]).T
    assert np.mean((low <= 0) & (high >= 0)) == pytest.approx(0.95, abs=0.012)


def test_one_run_has_no_spread() -> None:
    assert spread(np.array([0.5]), "std") == spread(np.array([0.5]), "interval") == 0
    assert spread(np.array([0.0, 1.0]), "std") == pytest.approx(0.5**0.5)


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


def test_nothing_is_tied_without_enough_common_seeds() -> None:
    table = rows(best=0.8, near=0.7995)
    del table["near"][0]
    assert best_and_tied(table, "higher") == ({"best"}, set())
    table["near"][9] = 0.79  # five again, but four in common
    assert best_and_tied(table, "higher") == ({"best"}, set())


def test_a_row_of_one_lucky_seed_is_compared_on_that_seed_alone() -> None:
    """Covers audit B7."""
    five = {0: 0.91, 1: 0.8, 2: 0.8, 3: 0.8, 4: 0.8}
    assert best_and_tied({"lucky": {0: 0.9}, "five": five}, "higher") == ({"five"}, set())


def test_a_row_without_the_common_seeds_is_neither_and_spoils_no_comparison() -> None:
    assert best_and_tied({**rows(best=0.8, near=0.7995), "one": {0: 0.99}}, "higher") == ({"best"}, {"near"})
    more = {**rows(best=0.8, near=0.7995), "more": {**dict.fromkeys(range(5), 0.5), 9: 0.99}}
    assert best_and_tied(more, "higher")[0] == {"best"}
    assert best_and_tied({"a": {0: 0.9}, "b": {1: 0.8}}, "higher") == (set(), set())


def test_equal_rows_share_the_best_and_one_row_is_no_contest() -> None:
    same = {0: 0.5, 1: 0.6}
    assert best_and_tied({"a": same, "b": dict(same), "c": {0: 0.1, 1: 0.2}}, "higher")[0] == {"a", "b"}
    assert best_and_tied({"a": same, "b": {}}, "higher") == (set(), set())
    assert best_and_tied({"a": same, "b": {0: 0.1}}, "") == (set(), set())
