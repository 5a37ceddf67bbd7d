"""Machine unlearning: a linear head that no longer relies on what it is made to forget.

Tensors in, tensors out, torch only.
"""
