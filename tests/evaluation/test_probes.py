import math

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from efface.evaluation.probes import (
    FOLDS,
    L2_GRID,
    ProbeResult,
    Standardiser,
    _chosen_l2,
    auc,
    balanced_weights,
    folds,
    halves,
    has_power,
    linear_probe,
    mlp_probe,
    powerless,
    score,
    unreadable,
)
from efface.softmax import fit_softmax


def labelled(n: int = 2000, k: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    a = torch.arange(n) % k
    return torch.randn(n, 10, generator=g), a


@pytest.mark.parametrize("probe", [linear_probe, mlp_probe])
def test_noise_holds_no_information(probe: object) -> None:
    x, a = labelled()
    result: ProbeResult = probe(x, a, a, 4)  # type: ignore[operator]
    assert abs(result.information) < 0.02
    assert result.majority == pytest.approx(0.25)
    assert result.accuracy == pytest.approx(0.25, abs=0.06)


def test_a_linear_probe_reads_all_that_is_linear() -> None:
    x, a = labelled()
    x[:, :4] += 20 * torch.nn.functional.one_hot(a, 4)
    result = linear_probe(x, a, a, 4)
    assert result.information == pytest.approx(2, abs=0.01)
    assert result.accuracy == 1


def test_information_is_the_mutual_information_of_a_noisy_channel() -> None:
    """x tells a through a binary symmetric channel: 1 − H(p) bits, which both probes must find."""
    g = torch.Generator().manual_seed(0)
    a = torch.arange(20_000) % 2
    p = 0.1
    x = (a ^ (torch.rand(len(a), generator=g) < p).long()).float()[:, None]
    expected = 1 + p * math.log2(p) + (1 - p) * math.log2(1 - p)
    for probe in (linear_probe, mlp_probe):
        assert probe(x, a, a, 2).information == pytest.approx(expected, abs=0.02)


def test_an_mlp_probe_reads_what_a_linear_one_cannot() -> None:
    x, _ = labelled()
    a = ((x[:, 0] > 0) ^ (x[:, 1] > 0)).long()
    assert linear_probe(x, a, a, 2).information < 0.02
    assert mlp_probe(x, a, a, 2).information > 0.5


def test_a_probe_leaves_the_random_state_alone() -> None:
    x, a = labelled(400)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    mlp_probe(x, a, a, 4)
    assert torch.equal(torch.rand(3), expected)


def test_score_by_hand() -> None:
    result = score(torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 2.0], [0.0, 2.0]]), torch.tensor([0, 1, 1, 0]))
    wrong = math.exp(0) / (math.exp(0) + math.exp(2))
    cross_entropy = -(3 * math.log2(1 - wrong) + math.log2(wrong)) / 4
    assert result.information == pytest.approx(1 - cross_entropy)
    assert result.accuracy == 0.75
    assert result.majority == 0.5


def test_halves_share_nothing_and_every_stratum() -> None:
    strata = torch.arange(101) % 7
    one, other = halves(strata)
    assert sorted(torch.cat([one, other]).tolist()) == list(range(101))
    assert (torch.bincount(strata[one]) - torch.bincount(strata[other])).abs().max() <= 1


def test_constant_columns_are_left_unscaled() -> None:
    x = torch.stack([torch.arange(4.0), torch.full((4,), 3.0)], 1)
    out = Standardiser.of(x)(x)
    torch.testing.assert_close(out[:, 0].std(correction=0), torch.tensor(1.0))
    assert (out[:, 1] == 0).all()


def test_a_column_that_is_all_but_zero_is_not_scaled_up() -> None:
    """As in a dead feature of a network, into which another representation may write."""
    x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    x[:, 1] *= 1e-30
    other = x.roll(1, dims=1)
    assert float(Standardiser.of(x)(other).abs().max()) < 10
    x[:, 1] *= 1e24  # small, but there
    assert float(Standardiser.of(x)(x)[:, 1].std()) == pytest.approx(1, rel=0.01)


@pytest.mark.parametrize("probe", [linear_probe, mlp_probe])
def test_a_probe_is_scored_on_the_half_that_it_has_not_seen(probe: object) -> None:
    x, a = labelled()
    train, _ = halves(a)
    x[train, :4] += 20 * torch.nn.functional.one_hot(a[train], 4)
    assert probe(x, a, a, 4).information < 0.5  # type: ignore[operator]


def test_the_penalty_is_chosen_within_the_training_half() -> None:
    """Where the other half says the opposite, a weak penalty is ruinous there; only its own half can have chosen it."""
    x, a = labelled(k=2)
    train, test = halves(a)
    x[train, 0] += 4 * a[train]
    x[test, 0] -= 4 * a[test]
    assert linear_probe(x, a, a, 2).information < -2


@pytest.mark.parametrize("k", [2, 10])
def test_information_is_zero_within_its_interval_where_there_is_none(k: int) -> None:
    """Over 30 draws. The choice of the penalty must cost nothing: a weak one would read noise, as negative bits."""
    information, reach = [], []
    for seed in range(30):
        g = torch.Generator().manual_seed(seed)
        x, a = torch.randn(1000, 20, generator=g), torch.arange(1000) % k
        result = linear_probe(x, a, a, k)
        information.append(result.information)
        reach.append(1.96 * float(result.gain.std()) / math.sqrt(len(result.gain)))
    within = sum(abs(bits) <= half for bits, half in zip(information, reach, strict=True))
    assert within >= 26  # of a right interval, 25 or fewer come once in 65 times; the draws are fixed
    assert abs(sum(information) / 30) < 0.005


def test_faint_information_is_read_no_worse_than_with_the_penalty_of_half_as_many_samples() -> None:
    """As where an eraser has left some hundredths of a bit, in features of many scales."""
    before, now = 0.0, 0.0
    for seed in range(10):
        g = torch.Generator().manual_seed(seed)
        a, scale = torch.arange(3000) % 4, 1 / torch.arange(1, 21)
        x = torch.randn(3000, 20, generator=g) * scale
        x += 0.08 * torch.randn(4, 20, generator=g)[a] * scale
        train, test = halves(a)
        inner, held_out = (train[part] for part in halves(a[train]))
        fits = {l2: fit_softmax(x[inner], a[inner], n_classes=4, l2=l2) for l2 in L2_GRID}
        losses = {l2: torch.nn.functional.cross_entropy(fits[l2].logits(x[held_out]), a[held_out]) for l2 in fits}
        l2 = min(losses, key=lambda l2: float(losses[l2]))
        before += score(fit_softmax(x[train], a[train], n_classes=4, l2=l2).logits(x[test]), a[test]).information
        now += linear_probe(x, a, a, 4).information
    assert now > before > 0.1


def test_folds_are_even_in_every_stratum_and_keep_clusters_whole() -> None:
    strata = torch.arange(200) % 7
    number = folds(strata)
    counts = torch.stack([torch.bincount(strata[number == k], minlength=7) for k in range(FOLDS)])
    assert int((counts.max(0).values - counts.min(0).values).max()) <= 1
    cluster = torch.randint(30, (900,), generator=torch.Generator().manual_seed(0))
    number = folds(cluster % 2, cluster)
    assert all(len(number[cluster == each].unique()) == 1 for each in cluster.unique())
    sizes = torch.bincount(number, minlength=FOLDS)
    assert int(sizes.max() - sizes.min()) < 120


def test_the_penalty_of_people_is_chosen_between_people() -> None:
    """Features that name a person choose no penalty as if they named the attribute."""
    g = torch.Generator().manual_seed(0)
    person = torch.arange(900) // 30
    a = torch.randint(2, (30,), generator=g)[person]
    x = 3 * torch.randn(30, 60, generator=g)[person] + torch.randn(900, 60, generator=g)
    number = folds(a, person)
    weight = torch.ones(900, dtype=torch.float64)
    between, _ = _chosen_l2(x, a, weight, number, 2, L2_GRID)
    across, _ = _chosen_l2(x, a, weight, folds(a), 2, L2_GRID)
    assert between > 10 * across


def test_information_of_the_frequencies_alone_is_zero() -> None:
    a = torch.tensor([0, 0, 0, 1])
    nothing = torch.tensor([0.75, 0.25]).log().expand(4, 2)
    assert score(nothing, a).information == pytest.approx(0, abs=1e-6)
    assert score(nothing, a).majority == 0.75


def test_score_under_weights_is_that_of_repeated_samples() -> None:
    g = torch.Generator().manual_seed(0)
    a, times = torch.randint(2, (50,), generator=g), torch.randint(1, 5, (50,), generator=g)
    logits = torch.randn(50, 2, generator=g)
    weighted = score(logits, a, times)
    repeated = score(logits.repeat_interleave(times, 0), a.repeat_interleave(times))
    for name in ("information", "accuracy", "majority", "macro_recall", "auc"):
        assert getattr(weighted, name) == pytest.approx(getattr(repeated, name))
    assert weighted.information == pytest.approx(float((weighted.gain * times).sum() / times.sum()))


def test_macro_recall_equals_balanced_accuracy_of_scikit_learn() -> None:
    g = torch.Generator().manual_seed(0)
    a = (torch.rand(500, generator=g) < 0.1).long()
    logits = torch.randn(500, 2, generator=g, dtype=torch.float64) + torch.nn.functional.one_hot(a)
    weight = torch.rand(500, generator=g, dtype=torch.float64)
    expected = balanced_accuracy_score(a, logits.argmax(1), sample_weight=weight)
    assert score(logits, a, weight).macro_recall == pytest.approx(expected)
    assert score(torch.tensor([[1.0, 0.0]]).expand(500, 2), a).macro_recall == 0.5
    assert score(logits[a == 0], a[a == 0]).macro_recall == score(logits[a == 0], a[a == 0]).accuracy


def test_auc_equals_that_of_scikit_learn() -> None:
    g = torch.Generator().manual_seed(0)
    a, weight = torch.randint(2, (300,), generator=g), torch.rand(300, generator=g).double()
    scores = (4 * (torch.randn(300, generator=g) + a)).round()  # with ties
    assert auc(scores, a, weight) == pytest.approx(roc_auc_score(a, scores, sample_weight=weight))
    assert auc(scores, torch.zeros_like(a), weight) is None
    assert score(torch.randn(300, 3), a).auc is None


def test_halves_keep_clusters_whole_and_even() -> None:
    g = torch.Generator().manual_seed(0)
    cluster = torch.randint(60, (1500,), generator=g) * 3
    of_cluster = torch.randint(2, (180,), generator=g)
    strata = of_cluster[cluster] * 2 + torch.randint(2, (1500,), generator=g)
    one, other = halves(strata, cluster)
    assert sorted(torch.cat([one, other]).tolist()) == list(range(1500))
    assert not set(cluster[one].tolist()) & set(cluster[other].tolist())
    assert abs(len(one) - len(other)) < 150
    for part in (one, other):  # the attribute of a cluster is in both as it is in all
        assert float(of_cluster[cluster[part]].double().mean()) == pytest.approx(
            float(of_cluster[cluster].double().mean()), abs=0.07
        )


def test_an_attribute_of_persons_is_not_read_from_who_they_are() -> None:
    """Each person has a look of their own and a random attribute: who knows the people knows it."""
    g = torch.Generator().manual_seed(0)
    person = torch.arange(1200) // 30
    a = torch.randint(2, (40,), generator=g)[person]
    x = 3 * torch.randn(40, 60, generator=g)[person] + torch.randn(1200, 60, generator=g)
    assert linear_probe(x, a, a, 2).accuracy > 0.95
    apart = linear_probe(x, a, a, 2, cluster=person)
    assert apart.accuracy < apart.majority + 0.1
    # A penalty chosen across people would be too weak, and the probe sure of what is wrong.
    assert -0.5 < apart.information < 0.05
    assert mlp_probe(x, a, a, 2, cluster=person).information < 0.05
    assert powerless(x, a, a, 2, person) is not None
    assert powerless(x, a, a, 2) is None


def test_power_needs_five_points_above_the_majority_or_a_good_auc() -> None:
    x, a = labelled(k=2)
    assert "underpowered: from the un-erased features" in str(powerless(x, a, a, 2))
    x[:, 0] += a
    assert powerless(x, a, a, 2) is None
    # Of a rare value hardly 5 points can be gained: there the area under the curve has to tell.
    rare = (torch.arange(2000) % 25 == 0).long()
    assert powerless(x, rare, rare, 2) is not None
    x[:, 1] += 1.5 * rare
    found = linear_probe(x, rare, rare, 2)
    assert found.accuracy < found.majority + 0.05
    assert has_power(found)


def test_unreadable_attributes_are_named() -> None:
    a = torch.arange(200) % 2
    assert unreadable(a, 2) is None
    assert "one value only" in str(unreadable(torch.zeros_like(a), 2))
    assert "49 samples, fewer than 50" in str(unreadable(a[:99], 2))
    assert "10 clusters" in str(unreadable(a, 2, torch.arange(200) // 20))
    assert unreadable(torch.arange(100) % 10, 10) is None  # ten of each of ten


def test_label_and_attribute_are_independent_and_even_under_balanced_weights() -> None:
    g = torch.Generator().manual_seed(0)
    a = torch.randint(3, (4000,), generator=g)
    y = torch.where(torch.rand(4000, generator=g) < 0.5, a % 2, torch.randint(2, (4000,), generator=g))
    weight, reason = balanced_weights(y * 3 + a, a)
    assert reason is None
    assert weight is not None
    cells = torch.bincount(y * 3 + a, weights=weight, minlength=6)
    torch.testing.assert_close(cells, torch.full((6,), 4000 / 6, dtype=torch.float64))
    assert "independent" in str(balanced_weights(torch.randint(2, (4000,), generator=g) * 3 + a, a)[1])
    few = torch.cat([torch.arange(400) % 2 * 3, torch.full((5,), 2), torch.full((100,), 1)])  # y = 0, a = 2 five times
    assert "fewer than 20" in str(balanced_weights(few, few % 3)[1])


def test_a_balanced_probe_reads_the_attribute_and_not_the_label() -> None:
    """x tells the label, and something of a. The label helps under the natural distribution only."""
    g = torch.Generator().manual_seed(0)
    a = torch.randint(2, (8000,), generator=g)
    noise = torch.randn(8000, 3, generator=g)

    def inputs(y: torch.Tensor) -> torch.Tensor:
        return noise + torch.stack([4 * y, a, torch.zeros_like(a)], 1)

    y = torch.where(torch.rand(8000, generator=g) < 0.8, a, 1 - a)
    strata = y * 2 + a
    weight, _ = balanced_weights(strata, a)
    natural = linear_probe(inputs(y), a, strata, 2)
    balanced = linear_probe(inputs(y), a, strata, 2, weight=weight)
    free = torch.randint(2, (8000,), generator=g)
    independent = linear_probe(inputs(free), a, free * 2 + a, 2)
    assert natural.information > balanced.information + 0.1
    assert balanced.information == pytest.approx(independent.information, abs=0.02)
    assert balanced.auc == pytest.approx(independent.auc, abs=0.02)
    assert balanced.majority == pytest.approx(0.5, abs=0.01)
