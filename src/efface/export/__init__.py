"""Whole debiased models, from raw input to logits, in the formats that other programs read."""
