from . import datasets as datasets
from . import distortions as distortions
from . import metrics as metrics
from .default_model import load_quality_model as load_quality_model
from .displays import AgreementDisplay as AgreementDisplay
from .displays import QualityMapDisplay as QualityMapDisplay
from .features import OpenCLIPFeatures as OpenCLIPFeatures
from .features import TimmFeatures as TimmFeatures
from .full_reference import AHIQ as AHIQ
from .full_reference import DRIQA as DRIQA
from .full_reference import IQT as IQT
from .full_reference import JSPL as JSPL
from .full_reference import LPIPS as LPIPS
from .full_reference import SRIF as SRIF
from .full_reference import STLPIPS as STLPIPS
from .multimodal import CLIPIQA as CLIPIQA
from .multimodal import LIQE as LIQE
from .pair_input import UNIQUE as UNIQUE
from .pair_input import GraphIQA as GraphIQA
from .reduced_reference import CVRKDIQA as CVRKDIQA
from .reduced_reference import ContentDiverseIQA as ContentDiverseIQA
from .rows import make_pairs as make_pairs
from .single_input import DBCNN as DBCNN
from .single_input import DEIQT as DEIQT
from .single_input import GIQA as GIQA
from .single_input import GMMGIQA as GMMGIQA
from .single_input import KNNGIQA as KNNGIQA
from .single_input import MANIQA as MANIQA
from .single_input import MUSIQ as MUSIQ
from .single_input import NIMA as NIMA
from .single_input import HyperIQA as HyperIQA
from .single_input import KonIQPlusPlus as KonIQPlusPlus
from .single_input import MetaIQA as MetaIQA

__version__: str
__all__: list[str]
