"""Training of the head alone, on the features of a backbone that stays as it is: plain, or with the groups known."""

from typing import Annotated, ClassVar

from efface.options import Ge, options
from efface.training.erm import Erm, Selection
from efface.training.group_dro import GroupDro
from efface.training.resampled import Resampled
from efface.training.reweighted import Reweighted


@options
class Head(Erm):
    """Train the head and leave the backbone as it is; stop early, by val.

    The features of the backbone are computed once, see `efface.runs.extraction`.

    Args:
        patience: epochs without a better one on val after which training ends.
    """

    head_only: ClassVar[bool] = True

    epochs: Annotated[int, Ge(0)] = 100
    select: Selection = "loss"
    patience: Annotated[int, Ge(1)] = 5

    def __post_init__(self) -> None:
        if self.augment:
            raise ValueError("augment is true, but the head sees features, which are computed once: training=finetune")
        if self.select == "last":
            raise ValueError("select is 'last', but the training of a head ends by val: choose a rule, such as loss")

    def is_over(self, epochs_since_best: int) -> bool:
        return epochs_since_best >= self.patience


@options
class HeadGroupDro(Head, GroupDro):
    """Train the head alone by group DRO.

    Args:
        patience: longer than with the loss, since the accuracy of the worst group on val moves by whole samples.
    """

    select: Selection = "worst_group_accuracy"
    patience: Annotated[int, Ge(1)] = 20


@options
class HeadResampled(Head, Resampled):
    """Train the head alone on groups drawn equally often; `patience` as in `HeadGroupDro`."""

    select: Selection = "worst_group_accuracy"
    patience: Annotated[int, Ge(1)] = 20


@options
class HeadReweighted(Head, Reweighted):
    """Train the head alone under weights that undo the bias of train."""

    select: Selection = "balanced_loss"
