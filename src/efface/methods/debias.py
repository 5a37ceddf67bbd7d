"""FMD's strategy `external` for a head and features of one's own, in one call."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from efface.data.groups import Rule
from efface.methods.candidates import Edit, follow
from efface.methods.retraining import Part, part_of, standardised
from efface.moments import require_finite
from efface.problem import Features, Problem
from efface.unlearning.edits import check_labels, check_range, check_width, external
from efface.unlearning.head import head_of, head_parameters
from efface.unlearning.objective import Minimum, TrainingObjective

L2 = 1e-3
"""λ where there is no val to choose it on, and none is given."""


def debias_head(
    head: nn.Linear,
    x: Tensor,
    y: Tensor,
    *,
    x_cf: Tensor,
    y_cf: Tensor,
    x_val: Tensor | None = None,
    y_val: Tensor | None = None,
    a_val: Tensor | None = None,
    alpha: float = 0.8,
    l2: float | None = None,
    max_iter: int = 100,
    select: Rule = "unbiased_accuracy",
) -> tuple[nn.Linear, Minimum]:
    """Return a debiased copy of a linear head: moved from where it is to what the `external` strategy makes of train.

    The objective is (1 − α) · mean loss on train + α · mean loss on x_cf + λ/2 ‖θ − θ̂‖², with θ̂ the head as it is and
    features in units of their standard deviations. It is convex, and found by damped Newton steps.

    With val, λ falls from where nothing moves to where it no longer matters, and how far to go is chosen on val as by
    `method=fmd`: the closest to the head as it is within one standard error of the best. The head as it is is one of
    the candidates, so that the answer never scores below it on val; where nothing beats it, it is the answer.

    Without val, λ is `l2`, and nothing is chosen or checked: an over-confident head may become worse than it was.

    Args:
        head: K >= 2 logits, with or without intercept; it is not changed.
        x, y: training features `[n, d]` and labels `[n]`.
        x_cf, y_cf: `[m, d]`, `[m]`: features under which the spurious rule fails, and their labels.
        x_val, y_val, a_val: `[v, d]`, `[v]`, `[v]`: samples to choose on that neither train nor x_cf has, with their
            labels and protected attributes 0, 1, …; all three or none.
        alpha: weight of x_cf, in (0, 1].
        l2: λ without val; 1e-3 if None.
        max_iter: Newton steps at most, for each λ.
        select: the rule on val, see `efface.data.groups.val_score`.

    Returns:
        The new head, and how its minimisation ended; 0 iterations where the head as it is was chosen.

    Raises:
        TypeError: the head is not linear.
        ValueError: shapes or labels do not fit, values are not finite, a part of val is missing, or both val and λ are
            given.
    """
    val = _val(x_val, y_val, a_val, l2)
    part = _part(head, (x, y), (x_cf, y_cf), val)
    objective = TrainingObjective(x=part.train.x, y=part.train.y, l2=L2 if l2 is None else l2)
    edited = external(objective, part.theta, part.pairs_cf.x, part.pairs_cf.y, alpha=alpha)
    if val is None:
        minimum = part.trainable.minimise(edited, part.theta, max_iter=max_iter)
    else:
        point = follow(part, [Edit(edited, {})], select=select, max_iter=max_iter)[0].point
        minimum = part.trainable.minimise(edited, part.theta, max_iter=0) if point is None else point.minimum
    theta = part.as_given(minimum.theta)
    debiased = head_of(theta, bias=head.bias is not None, dtype=head.weight.dtype)
    return debiased, replace(minimum, theta=theta)


def _val(x: Tensor | None, y: Tensor | None, a: Tensor | None, l2: float | None) -> Features | None:
    """Return the samples to choose on; None if there are none."""
    missing = [name for name, values in (("x_val", x), ("y_val", y), ("a_val", a)) if values is None]
    if len(missing) == 3:
        return None
    if missing:
        raise ValueError(f"{', '.join(missing)} is missing: give x_val, y_val and a_val, or none of them")
    if l2 is not None:
        raise ValueError(f"l2 is {l2}, but with val λ is chosen there: leave l2 or val out")
    assert x is not None
    assert y is not None
    assert a is not None
    if len(y) == 0:
        raise ValueError("x_val has no samples: give some, or leave val out")
    if a.shape != y.shape or len(x) != len(y):
        raise ValueError(
            f"x_val has shape {list(x.shape)}, y_val {list(y.shape)} and a_val {list(a.shape)}: give a row, a label "
            "and an attribute for each sample"
        )
    check_range(a, max(int(a.max()) + 1, 1), "a_val")
    return Features(x.float(), y, a)


def _part(
    head: nn.Linear, train: tuple[Tensor, Tensor], counterfactual: tuple[Tensor, Tensor], val: Features | None
) -> Part:
    """Return the head as what is re-trained, at features in units of their standard deviations."""
    n_classes, d = len(head_parameters(head)), head.in_features
    check_labels(train[1], n_classes)
    check_width(*train, d, "x")
    check_width(*counterfactual, d, "x_cf")
    check_range(counterfactual[1], n_classes, "y_cf")
    for name, values in (("x", train[0]), ("x_cf", counterfactual[0])):
        require_finite(values, name)
    if val is not None:
        check_width(val.x, val.y, d, "x_val")
        check_range(val.y, n_classes, "y_val")
        require_finite(val.x, "x_val")
    # Attributes are only those of val: no other rule asks for them.
    samples, members = (Features(x.float(), y, torch.zeros_like(y)) for x, y in (train, counterfactual))
    problem = Problem(
        train=samples,
        val=samples.take(slice(0)) if val is None else val,
        pairs=members.take(slice(0)),
        pairs_cf=members,
        head=head,
        n_classes=n_classes,
        n_attributes=1 if val is None else int(val.a.max()) + 1,
        flippable=False,
        seed=0,
        device=str(samples.x.device),
    )
    return standardised(part_of(problem, 1))
