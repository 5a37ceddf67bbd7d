"""Multinomial logistic regression: loss, gradient, exact Hessian, and a solver that converges.

Every linear fit of the project goes through here: probes, re-fitted heads, and the inner problems of the methods. The
objective over θ = (W, b), W `[K, d]`, b `[K]`, is

    f(θ) = Σ_i w_i (logsumexp(z_i) − z_{i, y_i}) / Σ_i w_i + λ/2 ‖W‖²,        z_i = W x_i + b,

in nats, with the bias unpenalised: scikit-learn's `LogisticRegression` with λ = 1 / (C n). All K classes keep their
own row; without a penalty that leaves directions in which f is constant, along which no step is ever taken. Unlearning
penalises ‖θ − θ₀‖² instead, bias included, which leaves no such direction.

Two classes are solved in the difference of their rows alone, `BinaryObjective`: half the weights, a quarter of the
Hessian, and the same minimum.
"""

from efface.softmax.fit import SoftmaxFit, fit_softmax, minimise, softmax_path
from efface.softmax.objective import BinaryObjective, LinearObjective, SoftmaxObjective
from efface.softmax.steps import FACTORED, NewtonSteps, curved_factor, mean_block

__all__ = [
    "FACTORED",
    "BinaryObjective",
    "LinearObjective",
    "NewtonSteps",
    "SoftmaxFit",
    "SoftmaxObjective",
    "curved_factor",
    "fit_softmax",
    "mean_block",
    "minimise",
    "softmax_path",
]
