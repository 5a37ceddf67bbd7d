"""Base models: a backbone that computes features, and a linear head on them."""
