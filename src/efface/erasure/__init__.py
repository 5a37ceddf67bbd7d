"""Concept erasure: tensors in, erasers out.

The public names are those of EleutherAI's `concept_erasure` 0.2.4, and code written for it runs after a change of its
import lines: `efface.concept_erasure` has its modules. The differences, tested in tests/erasure/test_compatibility.py
and the tests of each module (`efface.scrubbing` lists those of scrubbing):

* Integers `[n]` or `[n, 1]` are classes, not numbers: they count as one-hot columns, which are never formed. Where the
  concept has one column, they must be 0 and 1. Pass floats for a numeric concept.
* z must have the shape of x without its last dimension, or that and k columns, and weights the former; there, any
  layout with the right number of values is taken, and paired with the wrong rows.
* `constrain_cov_trace` is accepted and does nothing: the constraint is provably never active.
* `svd_tol` is absolute, as there, but concept directions that it leaves in place are counted in a warning. `rtol` is a
  tolerance for canonical correlations, whatever the units of z. A concept of half as many directions as x has columns,
  or more, is warned of.
* `affine=False` takes Cov(x) for Σ, as there, with `svd_tol`; with `rtol` it takes E[xxᴴ], which moves x least.
* `proj_left` and `proj_right` have as many columns and rows as directions are erased, and another basis: compare
  erasers by `P`.
* Sums are kept in float64 around a fixed shift, products in the dtype of the data, at least float32, or in float64
  where they would leave its range; float16 and bfloat16 data give a float32 eraser. The private accumulators
  `sigma_xx_` and `sigma_xz_` do not exist.
* Constant, duplicated and nearly collinear columns of x are recognised by the correlation matrix, whatever their units.
* Complex data use the conjugate transpose throughout, also in `OracleEraser`.
* Optimal linear shrinkage divides by the weights' effective number, and has no absolute epsilon. Where its coefficient
  α falls below 0, on nearly isotropic data, `LeaceFitter` and `OracleFitter` take 0: else it would be no covariance.
* `OracleFitter` needs no tolerance for integer labels: it subtracts the means of classes, however rare. With shrinkage,
  labels that do not occur do not count as classes.
* Bad input raises ValueError with the argument's name, not AssertionError, and leaves statistics unchanged.
* An eraser applied to integers returns floating-point numbers. numpy arrays, pandas frames and lists are taken too.
"""
