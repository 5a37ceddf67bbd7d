"""Data sets in four disjoint splits, with the counterfactual pairs of each."""
