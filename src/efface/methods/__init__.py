"""Methods on one contract: a representation and the linear head on it go in, a debiased pair of them comes out."""
