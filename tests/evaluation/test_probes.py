import math

import pytest
import torch

from efface.evaluation.probes import ProbeResult, Standardiser, halves, linear_probe, mlp_probe, score


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


def test_score_of_unequal_classes() -> None:
    a = torch.tensor([0, 0, 0, 1])
    nothing = torch.tensor([0.75, 0.25]).log().expand(4, 2)
    assert score(nothing, a).information == pytest.approx(0, abs=1e-6)
    assert score(nothing, a).majority == 0.75
