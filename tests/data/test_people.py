import pytest
import torch

from efface.data.people import deal


@pytest.fixture
def crowd() -> tuple[torch.Tensor, torch.Tensor]:
    """Strata and persons of 1,000 photographs: one stratum is rare, and half of the people have almost none of it."""
    g = torch.Generator().manual_seed(0)
    person = torch.randint(80, (1000,), generator=g)
    return (torch.rand(1000, generator=g) < 0.03 + 0.5 * (person % 2)).long() * 3, person


@pytest.mark.parametrize("shares", [[1, 1], [1, 1, 1, 1, 1], [6, 1, 1]], ids=str)
def test_parts_get_their_shares_and_keep_people(crowd: tuple[torch.Tensor, torch.Tensor], shares: list[float]) -> None:
    strata, person = crowd
    part = deal(strata, person, shares)
    for number, share in enumerate(shares):
        for value in (0, 3):
            got = float((part[strata == value] == number).double().mean())
            assert got == pytest.approx(share / sum(shares), abs=0.03)
    for who in person.unique():
        assert len(part[person == who].unique()) == 1


def test_parts_do_not_depend_on_the_order(crowd: tuple[torch.Tensor, torch.Tensor]) -> None:
    strata, person = crowd
    shuffled = torch.randperm(1000, generator=torch.Generator().manual_seed(1))
    shares = [6, 1, 1]
    assert torch.equal(deal(strata[shuffled], person[shuffled], shares), deal(strata, person, shares)[shuffled])


def test_largest_goes_first_and_to_the_least_served() -> None:
    person = torch.tensor([7] * 4 + [8] * 3 + [9] * 2 + [10])
    assert deal(torch.zeros(10, dtype=torch.int64), person, [1, 1]).tolist() == [0] * 4 + [1] * 5 + [0]


def test_nothing_is_dealt_of_no_samples() -> None:
    none = torch.empty(0, dtype=torch.int64)
    assert deal(none, none, [1, 1]).tolist() == []
