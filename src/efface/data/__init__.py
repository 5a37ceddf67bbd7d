"""Data sets in four disjoint splits, and the counterfactual pairs of each."""
