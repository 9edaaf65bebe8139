# SPDX-License-Identifier: BSD-3-Clause
"""GMM-GIQA and KNN-GIQA: the density of an image's features among those of good images (Gu et al., ECCV 2020)."""

import warnings
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors
from sklearn.utils._param_validation import Interval, RealNotInt

from sklearn_iqa._base.failures import user_depth
from sklearn_iqa._base.parameters import PRETRAINED, RUNNING, at_least, non_negative, within
from sklearn_iqa._base.quality import QualityRegressor, check_quality, least_squares_line
from sklearn_iqa._nn.timm_backbones import load_backbone
from sklearn_iqa._nn.transforms import to_tensor
from sklearn_iqa._weights.pretrained import WeightsFile, fetch
from sklearn_iqa._weights.state_dicts import load_state, read_state
from sklearn_iqa.single_input._fid_inception import KEY_MAP, FIDInception, PooledTimm

FID = "fid_inception"
FID_FILE = WeightsFile(
    "pt_inception-2015-12-05-6726825d.pth",
    "6726825d",
    urls=(
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
    ),
    parameter="backbone_weights",
)
DISTANCE_OFFSET = 1e-6  # torch.nn.functional.pairwise_distance adds it to every difference


class FeatureDensityMixin:
    """Fits a density to the features of good images, the bank; stands left of `QualityRegressor`.

    A method fits the reduced features of the bank (`_fit_reduced`) and gives the score of others (`_reduced_scores`).
    """

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **RUNNING,
        **PRETRAINED,
        "compile": ["boolean"],
        "pca": [at_least(1), Interval(RealNotInt, 0, 1, closed="neither"), None],
        "reference_fraction": [within(0, 1, closed="right")],
        "backbone": [str],
    }
    _test_params: ClassVar[dict[str, Any]] = {
        "pca": 2,
        "reference_fraction": 0.5,
        "backbone": "test_resnet",
        "backbone_weights": None,
    }
    _smallest_bank: ClassVar[str]  # the parameter that the bank needs as many images as

    key_map = KEY_MAP
    weights: Any = None

    pca: Any
    reference_fraction: float
    backbone: str
    backbone_weights: Any
    verbose: Any
    _fit: Callable[..., Any]
    _infer_all: Callable[..., Any]

    def fit(self, X, y=None):
        """Fit the density to the features of good images.

        Parameters
        ----------
        X : container of n images
            See the user guide, "What X and y are".
        y : array-like of shape (n,), default=None
            Quality of each image, higher is better, in any unit: the best images are the bank, and `predict` returns
            scores in this unit. None: all images are the bank, and `predict` returns the published number.

        Returns
        -------
        self : estimator
            The fitted estimator.

        Raises
        ------
        ValueError, TypeError
            When X, y or a parameter cannot be used; the message names it and says what to do.
        """
        return self._fit(X, y)

    def _network(self):
        return FIDInception() if self.backbone == FID else PooledTimm(self.backbone)

    def _load_backbone(self, network):
        if self.backbone != FID:
            load_backbone(network.backbone, self.backbone, self.backbone_weights)
            return
        if self.backbone_weights is None:
            return
        if self.backbone_weights == "bundled":
            raise ValueError(f"backbone={FID!r} is not bundled; set backbone_weights to 'imagenet', a path or None.")
        path = self.backbone_weights
        if path == "imagenet":
            path = fetch(FID_FILE, verbose=self.verbose)
        load_state(network, read_state(path), key_map=self.key_map, origin=f"backbone_weights={str(path)!r}")

    def _loss(self):
        raise NotImplementedError("A density is fitted without a loss.")

    def _train_view(self, image):
        return self._views(image)[0]

    def _views(self, image):
        return to_tensor(image)[None]

    def _check_targets(self, rows, y):
        return np.full(len(rows), np.nan) if y is None else check_quality(rows, y, type(self).__name__)

    def _start(self, targets, sample_weight):
        """Nothing: `_train` fits the line to the unit of y."""

    def _train(self, rows, targets, sample_weight, n_epochs, seed, tasks):
        outputs = dict(self._infer_all(rows))
        features = np.stack([outputs[row][0].double().numpy() for row in range(len(rows))])
        bank = np.ones(len(rows), dtype=bool)
        if not np.isnan(targets).all():
            n_best = max(2, round(self.reference_fraction * len(rows)))
            bank[np.argsort(-targets, kind="stable")[n_best:]] = False
        self._fit_density(features[bank], seed)
        others = np.flatnonzero(~bank)
        if len(others) > 1:  # images of the bank itself are nearer to it than others of their quality
            self.label_scale_ = least_squares_line(self._densities(features[others]), targets[others])
            if self.label_scale_[0] < 0:
                warnings.warn(
                    f"The density of the {bank.sum()} images of highest y falls where y rises among the {len(others)} "
                    f"others (the slope of label_scale_ is {self.label_scale_[0]:.3g}), so that predict ranks the best "
                    "images last; check that higher y is better, give images of one kind, or fit good ones without y.",
                    stacklevel=user_depth(),
                )
        self.bank_size_ = int(bank.sum())

    def _fit_density(self, bank: np.ndarray, seed: int) -> None:
        """Fit the reduction and the density to the features (n, n_features) of good images."""
        smallest = getattr(self, self._smallest_bank)
        if len(bank) < smallest:
            raise ValueError(
                f"{type(self).__name__} has {self._smallest_bank}={smallest}, but the bank has {len(bank)} images; "
                f"give more good images, or lower {self._smallest_bank}."
            )
        self.pca_ = None if self.pca is None else PCA(self.pca, random_state=seed).fit(bank)
        self._fit_reduced(self._reduced(bank), seed)

    def _densities(self, features: np.ndarray) -> np.ndarray:
        """Features (n, n_features) -> published numbers (n,), higher is better."""
        return self._reduced_scores(self._reduced(features))

    def _reduced(self, features: np.ndarray) -> np.ndarray:
        return features if self.pca_ is None else self.pca_.transform(features)

    def _score(self, output):
        return float(self._densities(output[:1].double().numpy())[0])

    def __sklearn_is_fitted__(self):
        return hasattr(self, "bank_size_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = False
        return tags

    @abstractmethod
    def _fit_reduced(self, bank: np.ndarray, seed: int) -> None:
        """Fit the density to the bank's reduced features (n, n_components)."""

    @abstractmethod
    def _reduced_scores(self, features: np.ndarray) -> np.ndarray:
        """Reduced features (n, n_components) -> published numbers (n,), higher is better."""


class GMMGIQA(FeatureDensityMixin, QualityRegressor):  # type: ignore[misc]  # `fit` takes no weights
    r"""Generated Image Quality Assessment by a mixture of Gaussians (GMM-GIQA).

    Features of good images are reduced by PCA, and a mixture of Gaussians is fitted to them. The score of an image is
    the natural logarithm of the mixture's density at its features, without bounds, **higher is better**.

    Parameters
    ----------
    n_components : int, default=5
        Number of Gaussians in the mixture.
    reg_covar : float, default=1e-6
        Regularisation added to the diagonal of the covariances; few images need more.
    pca : float, int or None, default=0.95
        Reduction of the features: the number of principal components, the fraction of variance to keep, in (0, 1), or
        None for the features as they are.
    reference_fraction : float, default=0.25
        Fraction of the images, those of highest y, in the bank when `fit` is given y, in (0, 1].
    backbone : str, default="fid_inception"
        Network of the features: "fid_inception", the Inception-v3 of the Fréchet Inception Distance, or a timm name.
    backbone_weights : {"imagenet", "bundled"}, path or None, default="imagenet"
        Pretraining of the backbone when `weights` does not hold it: "imagenet" is fetched by timm or torchvision when
        the network is built, "bundled" is read from an installed package, a file may have the names of timm,
        torchvision or transformers, None starts from random numbers.
    device : str, default="auto"
        Where the network runs: "auto" takes the first of "cuda", "mps" and "cpu" that is there.
    precision : {"float32", "bfloat16", "float16"}, default="float32"
        Numbers that the network computes with; its last layers keep float32. The shorter ones are faster on processors
        made for them, and change results: compare both on images of yours.
    compile : bool, default=False
        Whether `fit` and inference run what `torch.compile` makes of the network: some seconds or minutes of start for
        each size of images, then fewer per image on some devices. Dropout then draws other numbers in training.
    n_jobs : int, default=None
        Threads that open images and cut what the network sees ahead of it; on a CPU 1 means none, since the network
        takes all cores. None is 1, unless in a `joblib.parallel_config`; -1 takes all cores. Results do not depend on
        it.
    random_state : int, RandomState instance or None, default=None
        Seeds weights, order and crops. An int gives equal results for equal data on one machine's CPU.
    verbose : int, default=0
        Whether long work shows a progress bar.

    Attributes
    ----------
    network_ : torch.nn.Module
        The network: images (n, 3, height, width) in 0..1 -> features (n, n_features).
    pca_ : sklearn.decomposition.PCA or None
        The fitted reduction; None with ``pca=None``.
    mixture_ : sklearn.mixture.GaussianMixture
        The density.
    bank_size_ : int
        Number of images in the bank.
    label_scale_ : tuple of float
        Slope and intercept of the line from network scores to the unit of y; after `fit` with y only.
    interrupted_ : bool
        Whether the last call of `fit` or `partial_fit` ended early, by an interruption or an error; the epochs of
        `n_iter_` are then what it learned.
    device_ : torch.device
        Where the network runs.

    See Also
    --------
    GIQA : The same paper's score by multiple binary classifiers.
    KNNGIQA : The same paper's score by the nearest features of good images.

    Notes
    -----
    Scores depend on the bank: the paper takes tens of thousands of real images of one kind (faces, cats), and scores of
    images of another kind mean little. `fit` with y, where the best images are the bank and the others determine the
    unit, is not in the paper. A generator's quality score is the mean over its images with a bank of real ones; its
    diversity score is the mean over real images with a bank of its own.

    The network is torchvision's Inception-v3 with the pooling and weights of the Fréchet Inception Distance; "imagenet"
    fetches `pt_inception-2015-12-05-6726825d.pth` of mseitzer/pytorch-fid. It resizes images to 299 x 299, without
    antialiasing, as officially. The published code has no licence; this one was written from a description.

    References
    ----------
    .. [1] S. Gu, J. Bao, D. Chen, F. Wen, "GIQA: Generated Image Quality Assessment", ECCV 2020.
       https://github.com/cientgu/GIQA

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_iqa import GMMGIQA
    >>> images = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    >>> giqa = GMMGIQA(n_components=1, pca=2, backbone="test_resnet", backbone_weights=None, random_state=0)
    >>> giqa.fit(images).predict(images[:2]).shape
    (2,)
    """

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **FeatureDensityMixin._parameter_constraints,
        "n_components": [at_least(1)],
        "reg_covar": [non_negative()],
    }
    _test_params: ClassVar[dict[str, Any]] = {**FeatureDensityMixin._test_params, "n_components": 1}
    _smallest_bank = "n_components"

    def __init__(
        self,
        *,
        n_components=5,
        reg_covar=1e-6,
        pca=0.95,
        reference_fraction=0.25,
        backbone="fid_inception",
        backbone_weights="imagenet",
        device="auto",
        precision="float32",
        compile=False,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.n_components = n_components
        self.reg_covar = reg_covar
        self.pca = pca
        self.reference_fraction = reference_fraction
        self.backbone = backbone
        self.backbone_weights = backbone_weights
        self.device = device
        self.precision = precision
        self.compile = compile
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def _fit_reduced(self, bank, seed):
        self.mixture_ = GaussianMixture(self.n_components, reg_covar=self.reg_covar, random_state=seed).fit(bank)

    def _reduced_scores(self, features):
        return self.mixture_.score_samples(features)


class KNNGIQA(FeatureDensityMixin, QualityRegressor):  # type: ignore[misc]  # `fit` takes no weights
    r"""Generated Image Quality Assessment by the nearest neighbours among good images (KNN-GIQA).

    The score is the sum of the inverse distances of an image's features to those of its :math:`K` nearest neighbours
    in the bank of good images,

    .. math:: s(x) = \sum_{k=1}^{K} 1 / \lVert f(x) - f(x_k) \rVert_1 ,

    above 0, **higher is better**.

    Parameters
    ----------
    n_neighbors : int, default=1
        Number of neighbours, K.
    pca : float, int or None, default=0.95
        Reduction of the features: the number of principal components, the fraction of variance to keep, in (0, 1), or
        None for the features as they are.
    reference_fraction : float, default=0.25
        Fraction of the images, those of highest y, in the bank when `fit` is given y, in (0, 1].
    backbone : str, default="fid_inception"
        Network of the features: "fid_inception", the Inception-v3 of the Fréchet Inception Distance, or a timm name.
    backbone_weights : {"imagenet", "bundled"}, path or None, default="imagenet"
        Pretraining of the backbone when `weights` does not hold it: "imagenet" is fetched by timm or torchvision when
        the network is built, "bundled" is read from an installed package, a file may have the names of timm,
        torchvision or transformers, None starts from random numbers.
    device : str, default="auto"
        Where the network runs: "auto" takes the first of "cuda", "mps" and "cpu" that is there.
    precision : {"float32", "bfloat16", "float16"}, default="float32"
        Numbers that the network computes with; its last layers keep float32. The shorter ones are faster on processors
        made for them, and change results: compare both on images of yours.
    compile : bool, default=False
        Whether `fit` and inference run what `torch.compile` makes of the network: some seconds or minutes of start for
        each size of images, then fewer per image on some devices. Dropout then draws other numbers in training.
    n_jobs : int, default=None
        Threads that open images and cut what the network sees ahead of it; on a CPU 1 means none, since the network
        takes all cores. None is 1, unless in a `joblib.parallel_config`; -1 takes all cores. Results do not depend on
        it.
    random_state : int, RandomState instance or None, default=None
        Seeds weights, order and crops. An int gives equal results for equal data on one machine's CPU.
    verbose : int, default=0
        Whether long work shows a progress bar.

    Attributes
    ----------
    network_ : torch.nn.Module
        The network: images (n, 3, height, width) in 0..1 -> features (n, n_features).
    pca_ : sklearn.decomposition.PCA or None
        The fitted reduction; None with ``pca=None``.
    bank_ : ndarray of shape (n_images, n_components)
        The features of the good images, reduced.
    neighbors_ : sklearn.neighbors.NearestNeighbors
        The search in the bank.
    bank_size_ : int
        Number of images in the bank.
    label_scale_ : tuple of float
        Slope and intercept of the line from network scores to the unit of y; after `fit` with y only.
    interrupted_ : bool
        Whether the last call of `fit` or `partial_fit` ended early, by an interruption or an error; the epochs of
        `n_iter_` are then what it learned.
    device_ : torch.device
        Where the network runs.

    See Also
    --------
    GIQA : The same paper's score by multiple binary classifiers.
    GMMGIQA : The same paper's score by a mixture of Gaussians over features of good images.

    Notes
    -----
    Scores depend on the bank, which should hold thousands of real images of the kind that is scored. Bank, network and
    `fit` with y are those of `GMMGIQA`, see its Notes.

    The official code adds 1e-6 to every difference, so that an image of the bank has a finite score; so does this one.

    References
    ----------
    .. [1] S. Gu, J. Bao, D. Chen, F. Wen, "GIQA: Generated Image Quality Assessment", ECCV 2020.
       https://github.com/cientgu/GIQA

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_iqa import KNNGIQA
    >>> images = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    >>> giqa = KNNGIQA(n_neighbors=2, pca=2, backbone="test_resnet", backbone_weights=None, random_state=0)
    >>> giqa.fit(images).predict(images[:2]).shape
    (2,)
    """

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **FeatureDensityMixin._parameter_constraints,
        "n_neighbors": [at_least(1)],
    }
    _smallest_bank = "n_neighbors"

    score_range = (0.0, np.inf)

    def __init__(
        self,
        *,
        n_neighbors=1,
        pca=0.95,
        reference_fraction=0.25,
        backbone="fid_inception",
        backbone_weights="imagenet",
        device="auto",
        precision="float32",
        compile=False,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.n_neighbors = n_neighbors
        self.pca = pca
        self.reference_fraction = reference_fraction
        self.backbone = backbone
        self.backbone_weights = backbone_weights
        self.device = device
        self.precision = precision
        self.compile = compile
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def _fit_reduced(self, bank, seed):
        self.bank_ = bank
        self.neighbors_ = NearestNeighbors(n_neighbors=self.n_neighbors, metric="manhattan").fit(bank)

    def _reduced_scores(self, features):
        nearest = self.bank_[self.neighbors_.kneighbors(features, return_distance=False)]
        # NOTE[DIFF] paper: any distance; code: L1, with a small number added to every difference, so that an image of
        # the bank has a finite score.
        return (1 / np.abs(features[:, None] - nearest + DISTANCE_OFFSET).sum(2)).sum(1)
