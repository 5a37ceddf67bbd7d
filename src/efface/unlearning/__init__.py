"""Machine unlearning: tensors in, parameters out.

Find the bias (`bias`), find the training samples behind it (`influence`, over an `inverse` of the Hessian), and edit
the objective that they are in (`fmd`), for a head or for several layers (`trainable`, `layers`). `certified` removes
training samples under a budget (ε, δ), by the Gaussian `mechanism`.
"""
