"""Concept erasure: tensors in, erasers out."""
