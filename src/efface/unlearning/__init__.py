"""Machine unlearning: tensors in, parameters out. Two parts that import nothing from one another.

* Fast Model Debias: find the `bias`, find the training samples behind it (`influence`, over an `inverse` of the
  Hessian), and edit the training `objective` that they are in (`edits`), for a linear `head` or for several `layers`.
  What to remove is chosen from the trained model, and the model is what it would be after training on the edited
  objective, as nearly as a minimum is found: nothing is certified.
* `certified` removes given training samples from a linear classifier, minimises its objective on the others to a fixed
  gradient norm, and releases weights with noise and an (ε, δ) certificate: another objective and another contract.

Both minimise with `efface.newton`.
"""
