"""Rules drawn for each sample, by a hash of its features."""

import pytest
import torch

from efface.decisions import Drawn, keys

D = 5


def drawn(seed: int = 0, *, shares: tuple[float, ...] = (0.25, 0.75), without: tuple[int, ...] = ()) -> Drawn:
    """Label 1 with the probability of the last rule, whatever the head says."""
    constant = torch.tensor([[-5.0] * (len(shares) - 1) + [5.0]], dtype=torch.float64)
    return Drawn(
        probability=torch.tensor([shares], dtype=torch.float64),
        slope=torch.zeros_like(constant),
        offset=constant,
        column=torch.zeros(len(shares), dtype=torch.int64),
        key=keys(D, seed, without=without),
    )


def rows(n: int = 4000) -> torch.Tensor:
    """Features as those of a table: most of them 0 or 1, so that few bits differ."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(0, 2, (n, D), generator=generator).float()
    x[:, 0] = torch.randn(n, generator=generator)
    return x


def labels(decide: Drawn, x: torch.Tensor, a: torch.Tensor | None = None) -> torch.Tensor:
    return decide(torch.zeros(len(x), 2), x, a).argmax(1)


def test_draws_are_uniform_and_independent_of_the_features() -> None:
    x = rows()
    u = drawn().uniform(x)
    assert float(u.min()) >= 0
    assert float(u.max()) < 1
    counts = torch.histc(u, 20, 0, 1)
    assert float(((counts - 200).square() / 200).sum()) < 45  # χ² of 19 degrees of freedom, p = .0007
    for column in x.T:
        assert abs(float(torch.corrcoef(torch.stack([column.double(), u]))[0, 1])) < 0.06
    other = drawn(1).uniform(x)
    assert abs(float(torch.corrcoef(torch.stack([u, other]))[0, 1])) < 0.06


def test_a_single_column_of_two_values_has_fair_draws_over_seeds() -> None:
    x = torch.zeros(2, D)
    x[1, 1] = 1
    u = torch.stack([drawn(seed).uniform(x) for seed in range(500)])
    assert u.mean(0).tolist() == pytest.approx([0.5, 0.5], abs=0.06)
    assert abs(float(torch.corrcoef(u.T)[0, 1])) < 0.15


def test_a_sample_is_decided_alike_in_every_batch() -> None:
    x = rows(100)
    decide = drawn()
    whole = labels(decide, x)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    assert torch.equal(labels(decide, x[order]), whole[order])
    assert torch.equal(torch.cat([labels(decide, row[None]) for row in x]), whole)
    assert torch.equal(labels(decide, x.double()), whole)
    zeros = torch.zeros(1, D)
    assert torch.equal(decide.uniform(zeros), decide.uniform(-zeros))


def test_rules_are_drawn_in_their_shares() -> None:
    x = rows()
    assert float(labels(drawn(), x).double().mean()) == pytest.approx(0.75, abs=0.02)
    # Shares that do not quite sum to 1, and a rule that is never drawn.
    never = drawn(shares=(0.3, 0.7 - 1e-12, 0.0))
    assert float(labels(never, x).double().mean()) == 0


def test_columns_without_a_key_change_no_draw() -> None:
    x = rows(50)
    flipped = x.clone()
    flipped[:, 2] = 1 - flipped[:, 2]
    assert torch.equal(drawn(without=(2,)).uniform(x), drawn(without=(2,)).uniform(flipped))
    assert not torch.equal(drawn().uniform(x), drawn().uniform(flipped))


def test_rules_read_their_own_logits_under_each_attribute() -> None:
    decide = Drawn(
        probability=torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64),
        slope=torch.tensor([[2.0, 0.0], [0.0, -1.0]], dtype=torch.float64),
        offset=torch.tensor([[0.5, 0.0], [0.0, 3.0]], dtype=torch.float64),
        column=torch.tensor([0, 1]),
        key=keys(D, 0),
    )
    logits = torch.tensor([[0.0, 1.0, 5.0, 7.0]]).repeat(2, 1)
    result = decide(logits, rows(2), torch.tensor([0, 1]))
    torch.testing.assert_close(result.diff(dim=1)[:, 0], torch.tensor([2 * 1 + 0.5, -2 + 3.0]))
    with pytest.raises(ValueError, match="depend on the attribute"):
        decide(logits, rows(2))
