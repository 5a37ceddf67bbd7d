"""Certified removal of training samples from a linear classifier."""
