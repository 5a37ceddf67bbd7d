"""Base models: a backbone that makes features, and a linear head on them."""
