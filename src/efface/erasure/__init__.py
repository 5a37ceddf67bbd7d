"""Concept erasure: tensors in, erasers out.

The public names are those of EleutherAI's `concept_erasure` 0.2.4, and code written for it runs after a change of its
import line (`concept_erasure.leace` becomes `efface.erasure.leace`, and so on). The differences, each tested in
tests/erasure/test_compatibility.py:

* Integer labels of more than two classes are classes, not numbers: they become one-hot columns. Pass floats for a
  numeric concept.
* `constrain_cov_trace` is accepted and does nothing: the constraint is provably never active.
* `svd_tol` is absolute, as there, but a concept direction that it leaves in place is named in a warning. `rtol` is a
  tolerance relative to the largest singular value.
* `proj_left` and `proj_right` have as many columns and rows as directions are erased, and another basis: compare
  erasers by `P`.
* Sums are kept in float64 around a fixed shift, products in the dtype of the data, at least float32; float16 and
  bfloat16 data give a float32 eraser. The private accumulators `sigma_xx_` and `sigma_xz_` do not exist.
* Constant, duplicated and nearly collinear columns of x are recognised by the correlation matrix, whatever their units.
* Complex data use the conjugate transpose throughout, also in `OracleEraser`.
* Optimal linear shrinkage divides by the weights' effective number, and has no absolute epsilon. Where its coefficient
  α falls below 0, on nearly isotropic data, `LeaceFitter` takes 0: the estimate would be no covariance.
* Bad input raises ValueError with the argument's name, not AssertionError, and leaves statistics unchanged.
* An eraser applied to integers returns floating-point numbers.
"""
