from . import datasets as datasets
from . import distortions as distortions
from . import metrics as metrics
from .displays import AgreementDisplay as AgreementDisplay
from .displays import QualityMapDisplay as QualityMapDisplay
from .full_reference import LPIPS as LPIPS
from .full_reference import STLPIPS as STLPIPS
from .images import make_pairs as make_pairs
