"""No training: the model as it is."""

from efface.devices import Precision
from efface.options import options
from efface.training.erm import Erm


@options
class NoTraining(Erm):
    """Uses the model as it is: nothing is trained, and of the options of training only the precision counts.

    The others are here since data sets set them for whatever training there is.

    Args:
        precision: in which features are computed.
    """

    precision: Precision = "float32"

    @property
    def trains(self) -> bool:
        return False
