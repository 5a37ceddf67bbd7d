from .api import Audit as Audit
from .api import DebiasedModel as DebiasedModel
from .api import audit as audit
from .api import debias as debias
from .debiased import load as load
from .erasure.adversarial import solve_adv_game as solve_adv_game
from .erasure.affine import AffineEraser as AffineEraser
from .erasure.certificate import Guardedness as Guardedness
from .erasure.certificate import certify as certify
from .erasure.inlp import InlpEraser as InlpEraser
from .erasure.leace import LeaceEraser as LeaceEraser
from .erasure.leace import LeaceFitter as LeaceFitter
from .erasure.leace import erase_in_sequence as erase_in_sequence
from .erasure.leace import erase_jointly as erase_jointly
from .erasure.oracle import OracleEraser as OracleEraser
from .erasure.oracle import OracleFitter as OracleFitter
from .erasure.projections import MeanProjectionEraser as MeanProjectionEraser
from .erasure.projections import PcaEraser as PcaEraser
from .erasure.projections import RandomProjectionEraser as RandomProjectionEraser
from .erasure.quadratic import QuadraticEditor as QuadraticEditor
from .erasure.quadratic import QuadraticEraser as QuadraticEraser
from .erasure.quadratic import QuadraticFitter as QuadraticFitter
from .erasure.rlace import RlaceEraser as RlaceEraser
from .erasure.rlace import RlaceSolution as RlaceSolution
from .methods.debias import debias_head as debias_head
from .moments import Moments as Moments
from .softmax import SoftmaxFit as SoftmaxFit
from .softmax import fit_softmax as fit_softmax
from .unlearning.bias import CounterfactualBias as CounterfactualBias
from .unlearning.bias import DemographicParity as DemographicParity
from .unlearning.bias import EqualOpportunity as EqualOpportunity
from .unlearning.bias import counterfactual_bias as counterfactual_bias
from .unlearning.certified.mechanism import allowed_shift as allowed_shift
from .unlearning.certified.mechanism import gaussian_delta as gaussian_delta
from .unlearning.certified.published import BudgetSpentError as BudgetSpentError
from .unlearning.certified.published import PublishedRemoval as PublishedRemoval
from .unlearning.certified.release import CertifiedRelease as CertifiedRelease
from .unlearning.certified.release import RemovalCertificate as RemovalCertificate
from .unlearning.certified.removal import CertifiedLogisticRegression as CertifiedLogisticRegression
from .unlearning.certified.removal import Removal as Removal
from .unlearning.influence import Influence as Influence
from .unlearning.influence import influence_on_bias as influence_on_bias
from .unlearning.inverse import head_inverse as head_inverse

# For code written for concept_erasure only: its other public names.
# isort: split
from .erasure.groupby import GroupedTensor as GroupedTensor
from .erasure.groupby import groupby as groupby
from .erasure.leace import ErasureMethod as ErasureMethod
from .erasure.quantile import QuantileNormalizer as QuantileNormalizer
from .erasure.quantile import cdf as cdf
from .erasure.quantile import icdf as icdf
from .erasure.shrinkage import optimal_linear_shrinkage as optimal_linear_shrinkage
from .erasure.utils import assert_type as assert_type
from .scrubbing.scrubber import ConceptScrubber as ConceptScrubber

__version__: str
