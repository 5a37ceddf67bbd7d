from .erasure.leace import ErasureMethod as ErasureMethod
from .erasure.leace import LeaceEraser as LeaceEraser
from .erasure.leace import LeaceFitter as LeaceFitter
from .erasure.shrinkage import optimal_linear_shrinkage as optimal_linear_shrinkage
from .experiment import load as load
from .moments import Moments as Moments
from .softmax import SoftmaxFit as SoftmaxFit
from .softmax import fit_softmax as fit_softmax

__version__: str
