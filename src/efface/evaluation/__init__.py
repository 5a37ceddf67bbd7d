"""What a debiased model does: accuracy by group, bias, and what its features still tell of the attribute."""
