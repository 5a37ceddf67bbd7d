"""Attackers: what they read where there is something to read, and that they read nothing where there is nothing."""

import math
from dataclasses import replace

import pytest
import torch

from efface.debiased import Debiased
from efface.evaluation.attackers import ATTACKERS, Target, towards_prior
from efface.evaluation.attacks import Attacks, simultaneous, underpowered
from efface.evaluation.evaluate import Reference
from efface.evaluation.probes import ProbeResult, score
from efface.metrics import METRICS
from efface.problem import Features
from efface.representations import Representation

NON_LINEAR = [name for name in ATTACKERS if name != "linear"]


def exclusive_or(n: int = 2000, seed: int = 0) -> Target:
    """The attribute is the product of two signs, which no linear classifier reads."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 2, generator=generator)
    a = (x.prod(1) > 0).long()
    return Target(x, a, a, 2)


def nothing(seed: int, n: int = 600) -> Target:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randint(3, (n,), generator=generator)
    return Target(torch.randn(n, 6, generator=generator), a, a, 3)


@pytest.mark.parametrize("name", NON_LINEAR)
def test_attackers_that_are_not_linear_read_an_exclusive_or(name: str) -> None:
    result = ATTACKERS[name](exclusive_or())
    assert result.information > 0.7
    assert result.accuracy > 0.9


def test_a_linear_attacker_reads_no_exclusive_or() -> None:
    assert ATTACKERS["linear"](exclusive_or()).information < 0.01


@pytest.mark.parametrize("name", ATTACKERS)
def test_attackers_are_the_same_each_time(name: str) -> None:
    """Whatever was drawn in between."""
    first = ATTACKERS[name](exclusive_or(400))
    torch.rand(3)
    again = ATTACKERS[name](exclusive_or(400))
    assert torch.equal(first.gain, again.gain)


def test_attackers_are_scored_on_the_same_rows_which_none_has_seen() -> None:
    """Labels of the scored half are exchanged: the attackers stay as they were."""
    target = exclusive_or(400)
    _, _, test = target.parts()
    a = target.a.clone()
    a[test] = 1 - a[test]
    for name, attacker in ATTACKERS.items():
        one, other = attacker(target), attacker(replace(target, a=a, strata=target.strata))
        assert torch.equal(one.rows, test), name
        assert torch.equal(one.correct, ~other.correct), name


@pytest.mark.parametrize("name", ATTACKERS)
def test_whole_clusters_are_scored(name: str) -> None:
    cluster = torch.arange(400) // 4
    result = ATTACKERS[name](replace(exclusive_or(400), cluster=cluster))
    scored = cluster[result.rows]
    assert len(scored.unique()) * 4 == len(scored)


def test_an_overconfident_classifier_is_drawn_towards_the_frequencies() -> None:
    prior = torch.tensor([0.8, 0.2]).double().log()
    a = (torch.arange(100) % 5 == 0).long()
    wrong = 20 * torch.nn.functional.one_hot((torch.arange(100) % 3 == 0).long(), 2).double()
    assert torch.allclose(towards_prior(wrong, a, prior)(wrong), prior.expand(100, 2))
    right = 20 * torch.nn.functional.one_hot(a, 2).double()
    assert torch.allclose(towards_prior(right, a, prior)(right), right.log_softmax(1))


def contained(seed: int) -> dict[str, bool]:
    """Tell whether the intervals contain 0 where there is nothing to read; with that of the strongest."""
    results = {name: attacker(nothing(seed)) for name, attacker in ATTACKERS.items()}
    own, strongest = simultaneous(results, None, 500)
    bounds = {**own, "strongest": strongest}
    return {name: both is not None and both[0] <= 1e-6 and both[1] >= -1e-6 for name, both in bounds.items()}


@pytest.mark.slow
def test_of_features_that_hold_nothing_the_intervals_contain_0() -> None:
    """50 draws; a 95 % interval misses at most 7 of them, but for one time in 200."""
    draws = [contained(seed) for seed in range(50)]
    missed = {name: sum(not draw[name] for draw in draws) for name in draws[0]}
    assert max(missed.values()) <= 7, missed


def of_gains(gain: torch.Tensor) -> ProbeResult:
    m = len(gain)
    result = score(torch.zeros(m, 2), torch.arange(m) % 2)
    return replace(result, gain=gain, information=float(gain.mean()))


def test_the_interval_of_the_strongest_allows_for_its_being_the_largest() -> None:
    """Of forty attackers that read nothing the largest estimate is well above 0: its own interval often misses 0."""
    generator = torch.Generator().manual_seed(0)
    alone = together = 0
    for _ in range(40):
        gains = torch.randn(40, 300, generator=generator)
        attacks = {str(k): of_gains(gain) for k, gain in enumerate(gains)}
        own, strongest = simultaneous(attacks, None, 400)
        largest = own[max(attacks, key=lambda name: attacks[name].information)]
        assert largest is not None
        assert strongest is not None
        alone += largest[0] > 0
        together += strongest[0] > 0
    assert alone > 15
    assert together <= 5


def test_the_interval_of_one_attacker_is_that_of_the_normal_distribution() -> None:
    gain = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    _, strongest = simultaneous({"only": of_gains(gain)}, None, 4000)
    assert strongest is not None
    half = 1.96 * float(gain.std()) / math.sqrt(2000)
    assert strongest == pytest.approx([float(gain.mean()) - half, float(gain.mean()) + half], abs=0.1 * half)


def test_few_samples_of_a_value_are_underpowered() -> None:
    def why_not(a: torch.Tensor, k: int, cluster: torch.Tensor | None = None) -> str | None:
        return underpowered(Target(torch.zeros(len(a), 1), a, a, k, cluster))

    a = torch.cat([torch.zeros(100), torch.ones(100), torch.full((49,), 2.0)]).long()
    why = why_not(a, 3)
    assert why == "underpowered: a value of the attribute has 49 samples, fewer than 50"
    assert why_not(a.clamp(max=1), 3) is None  # a value that is absent asks for no attacker
    many = torch.arange(20_000) % 500  # hundreds of values, forty samples each
    assert "40 samples" in str(why_not(many, 500))
    people = torch.arange(3000) // 60
    assert "too few clusters" in str(why_not((people == 7).long(), 2, people))
    assert why_not((people < 8).long(), 2, people) is None


def test_metrics_and_intervals_of_features() -> None:
    target = exclusive_or(400)
    features = Features(target.x, torch.arange(400) % 2, target.a)
    debiased = Debiased(Representation(), torch.nn.Linear(2, 2))
    attacks = Attacks(attackers=["linear", "neighbours"], mlp_probe=False, bootstrap=200)
    reference = Reference.of(features, 2, 2)
    evaluated = attacks(debiased, features, None, reference)
    metrics = evaluated.metrics
    assert metrics["strongest_attack_information"] == metrics["attack_neighbours_information"] > 0.4
    intervals = attacks.intervals(evaluated, features, reference)
    low, high = intervals["strongest_attack_information"] or [math.nan, math.nan]
    assert low < metrics["strongest_attack_information"] < high
    assert {"attack_linear_information", "attack_neighbours_information"} < intervals.keys()
    few = Features(features.x[:60], features.y[:60], features.a[:60])
    null = attacks(debiased, few, None, reference)
    assert null.metrics["strongest_attack_information"] is None
    assert "fewer than 50" in null.reasons["attack_linear_information"]


def test_every_attacker_has_a_metric() -> None:
    keys = {metric.key for metric in METRICS}
    assert {f"attack_{name}_information" for name in ATTACKERS} < keys
