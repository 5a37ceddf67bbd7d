"""Certified removal of training samples from a linear classifier, and the published procedure for comparison."""
