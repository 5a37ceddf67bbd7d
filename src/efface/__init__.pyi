from .erasure.certificate import Guardedness as Guardedness
from .erasure.certificate import certify as certify
from .erasure.groupby import GroupedTensor as GroupedTensor
from .erasure.groupby import groupby as groupby
from .erasure.leace import ErasureMethod as ErasureMethod
from .erasure.leace import LeaceEraser as LeaceEraser
from .erasure.leace import LeaceFitter as LeaceFitter
from .erasure.leace import erase_in_sequence as erase_in_sequence
from .erasure.leace import erase_jointly as erase_jointly
from .erasure.oracle import OracleEraser as OracleEraser
from .erasure.oracle import OracleFitter as OracleFitter
from .erasure.quadratic import QuadraticEditor as QuadraticEditor
from .erasure.quadratic import QuadraticEraser as QuadraticEraser
from .erasure.quadratic import QuadraticFitter as QuadraticFitter
from .erasure.quantile import QuantileNormalizer as QuantileNormalizer
from .erasure.quantile import cdf as cdf
from .erasure.quantile import icdf as icdf
from .erasure.shrinkage import optimal_linear_shrinkage as optimal_linear_shrinkage
from .erasure.utils import assert_type as assert_type
from .experiment import load as load
from .moments import Moments as Moments
from .softmax import SoftmaxFit as SoftmaxFit
from .softmax import fit_softmax as fit_softmax

__version__: str
