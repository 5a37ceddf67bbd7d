import pytest
import torch

from efface.data.base import TensorSplit, flip_pairs, matched_pairs, require_every_class, stratified_split


def split(y: list[int], a: list[int]) -> TensorSplit:
    n = len(y)
    return TensorSplit(torch.arange(n), torch.tensor(y), torch.tensor(a), torch.randn(n, 2))


def test_stratified_split_has_its_sizes_and_keeps_proportions(generator: torch.Generator) -> None:
    strata = torch.tensor([0] * 1000 + [1] * 100 + [2] * 7)
    parts = stratified_split(strata, {"a": 500, "b": 300, "c": 307}, generator)
    assert [len(rows) for rows in parts.values()] == [500, 300, 307]
    assert len(torch.cat(list(parts.values())).unique()) == 1107
    for rows in parts.values():
        share = torch.bincount(strata[rows], minlength=3) / len(rows)
        torch.testing.assert_close(share, torch.tensor([1000, 100, 7]) / 1107, atol=0.01, rtol=0)
    with pytest.raises(ValueError, match="need 2000 rows, but there are 1107"):
        stratified_split(strata, {"a": 2000}, generator)


def test_matched_pairs_share_the_label_and_differ_in_the_attribute(generator: torch.Generator) -> None:
    s = split([0, 0, 0, 1, 1, 2, 2], [0, 1, 2, 0, 1, 1, 1])
    pairs = matched_pairs(s, generator)
    assert torch.equal(s.y[pairs.rows], s.y[pairs.rows_cf])
    assert (pairs.a != pairs.a_cf).all()
    assert torch.equal(s.a[pairs.rows_cf], pairs.a_cf)
    assert pairs.rows.tolist() == [0, 1, 2, 3, 4]  # label 2 has one attribute value only
    assert len(matched_pairs(split([0, 1], [0, 1]), generator)) == 0


def test_tensor_split_has_no_counterfactuals() -> None:
    s = split([0, 1], [0, 1])
    with pytest.raises(ValueError, match="no counterfactual"):
        s.inputs(torch.tensor([0]), a=torch.tensor([1]))


def test_missing_class_is_named() -> None:
    with pytest.raises(ValueError, match=r"split 'val' has no sample of class cat \(of cat, there are 1 in train\)"):
        require_every_class({"train": split([0, 1], [0, 1]), "val": split([0], [0])}, ("dog", "cat"))


def test_sizes_and_values_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="must be 0 or more"):
        stratified_split(torch.zeros(3).long(), {"train": -1, "val": 2}, torch.Generator())
    split = TensorSplit(index=torch.arange(3), y=torch.zeros(3).long(), a=torch.zeros(3).long(), x=torch.zeros(3, 1))
    with pytest.raises(ValueError, match="n_attributes is 1, but a counterfactual needs another value"):
        flip_pairs(split, 1, torch.Generator())
