"""Stereotypes of language models: CrowS-Pairs and StereoSet, and methods that act on the output layer."""
