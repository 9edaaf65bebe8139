from . import datasets as datasets
from . import distortions as distortions
from . import metrics as metrics
from .displays import AgreementDisplay as AgreementDisplay
from .displays import QualityMapDisplay as QualityMapDisplay
from .features import TimmFeatures as TimmFeatures
from .full_reference import DRIQA as DRIQA
from .full_reference import LPIPS as LPIPS
from .full_reference import STLPIPS as STLPIPS
from .pair_input import UNIQUE as UNIQUE
from .rows import make_pairs as make_pairs
from .single_input import MANIQA as MANIQA
from .single_input import NIMA as NIMA

__version__: str
__all__: list[str]
