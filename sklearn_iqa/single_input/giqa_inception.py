# SPDX-License-Identifier: BSD-3-Clause
"""GIQA by density: how likely an image's features are among those of good images (Gu et al., ECCV 2020)."""

from abc import abstractmethod
from numbers import Integral, Real

import numpy as np
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import check_scalar

from sklearn_iqa._base.quality import QualityRegressor, check_quality
from sklearn_iqa._nn.timm_backbones import load_backbone
from sklearn_iqa._nn.transforms import to_tensor
from sklearn_iqa._weights.pretrained import WeightsFile, fetch
from sklearn_iqa._weights.state_dicts import load_state, read_state
from sklearn_iqa.single_input._fid_inception import KEY_MAP, FIDInception, PooledTimm

FID = "fid_inception"
FID_FILE = WeightsFile(
    "pt_inception-2015-12-05-6726825d.pth",
    "6726825d",
    url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
)
DISTANCE_OFFSET = 1e-6  # torch.nn.functional.pairwise_distance adds it to every difference


def fitted_pca(n_components, bank: np.ndarray, seed: int) -> PCA | None:
    return None if n_components is None else PCA(n_components, random_state=seed).fit(bank)


def reduced(pca: PCA | None, features: np.ndarray) -> np.ndarray:
    return features if pca is None else pca.transform(features)


class GoodImagesMixin:
    """Fits a density to the features of good images; stands left of `QualityRegressor`."""

    key_map = KEY_MAP
    published = ()
    weights = None

    def fit(self, X, y=None):
        """Learn what good images look like.

        Parameters
        ----------
        X : container of n images
            See the user guide, "What X and y are".
        y : array-like of shape (n,), default=None
            Quality of each image, higher is better, in any unit; the best images then make the bank, and `predict`
            speaks this unit. None: all images are good, and `predict` gives the published number.

        Returns
        -------
        self : estimator
            The fitted estimator.

        Raises
        ------
        ValueError, TypeError
            When X, y or a parameter cannot be used; the sentence says which, and what to do.
        """
        return self._fit(X, y, None, n_epochs=1, resume=False)

    def _network(self):
        return FIDInception() if self.backbone == FID else PooledTimm(self.backbone)

    def _load_backbone(self, network):
        if self.backbone != FID:
            load_backbone(network.backbone, self.backbone, self.backbone_weights)
            return
        if self.backbone_weights is None:
            return
        if self.backbone_weights == "bundled":
            raise ValueError(f"backbone={FID!r} comes in no wheel; set backbone_weights to 'imagenet', a path or None.")
        path = self.backbone_weights
        if path == "imagenet":
            path = fetch(FID_FILE, verbose=self.verbose)
        load_state(network, read_state(path), key_map=self.key_map, origin=f"backbone_weights={str(path)!r}")

    def _loss(self):
        raise NotImplementedError("densities are fitted, not descended")

    def _train_view(self, image):
        return self._views(image)[0]

    def _views(self, image):
        return to_tensor(image)[None]

    def _check_parameters(self):
        super()._check_parameters()
        check_scalar(
            self.reference_fraction, "reference_fraction", Real, min_val=0, max_val=1, include_boundaries="right"
        )

    def _check_targets(self, rows, y):
        return np.full(len(rows), np.nan) if y is None else check_quality(rows, y, type(self).__name__)

    def _start(self, targets, sample_weight):
        """Nothing: the unit of y is learned in `_train`."""

    def _train(self, rows, targets, sample_weight, n_epochs, seed, tasks):
        features: list = [None] * len(rows)
        for row, output in self._infer_all(rows):
            features[row] = output[0].double().numpy()
        bank = np.ones(len(rows), dtype=bool)
        if not np.isnan(targets).all():
            n_best = max(2, round(self.reference_fraction * len(rows)))
            bank[np.argsort(-targets, kind="stable")[n_best:]] = False
        features = np.stack(features)
        self._fit_density(features[bank], seed)
        judged = np.flatnonzero(~bank)
        if len(judged) > 1:  # images of the bank itself are nearer to it than others of their quality
            scores = self._densities(features[judged])
            spread, quality = scores.var(), targets[judged]
            slope = np.mean((scores - scores.mean()) * (quality - quality.mean())) / spread if spread > 0 else 0.0
            self.label_scale_ = (slope, quality.mean() - slope * scores.mean())

        self.bank_size_ = int(bank.sum())

    def _score(self, output):
        return float(self._densities(output[:1].double().numpy())[0])

    def __sklearn_is_fitted__(self):
        return hasattr(self, "bank_size_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = False
        return tags

    @abstractmethod
    def _fit_density(self, bank: np.ndarray, seed: int) -> None:
        """Learn from the features (n, n_features) of good images."""

    @abstractmethod
    def _densities(self, features: np.ndarray) -> np.ndarray:
        """Features (n, n_features) -> published numbers (n,), higher is better."""


class GMMGIQA(GoodImagesMixin, QualityRegressor):
    r"""Generated Image Quality Assessment by a mixture of Gaussians (GMM-GIQA).

    Features of good images are reduced by PCA, and a mixture of Gaussians is fitted to them. The score of an image is
    the natural logarithm of the mixture's density at its features, without bounds, **higher is better**.

    Parameters
    ----------
    n_components : int, default=5
        Gaussians in the mixture.
    reg_covar : float, default=1e-6
        Added to the diagonal of the covariances; more helps with few images.
    pca : float, int or None, default=0.95
        Principal components that the features are reduced to: a number of them, the share of variance to keep, or None
        for the features as they are.
    reference_fraction : float, default=0.25
        Share of the images, those of highest y, that make the bank when `fit` is given y, in (0, 1].
    backbone : str, default="fid_inception"
        Network of the features: "fid_inception", the Inception-v3 of the Fréchet Inception Distance, or a timm name.
    backbone_weights : {"imagenet", "bundled"}, path or None, default="imagenet"
        Pretraining of the backbone when `weights` is None: "imagenet" is fetched by timm or torchvision at `fit`,
        "bundled" is read from an installed package, None starts from random numbers.
    batch_size : int, default=50
        Rows in one step of training, and the most views in one pass when predicting. Scores do not depend on it.
    device : str, default="auto"
        Where the network runs: "auto" takes the first of "cuda", "mps" and "cpu" that is there.
    random_state : int, RandomState instance or None, default=None
        Seeds weights, order and crops. An int gives equal results for equal data on one machine's CPU.
    verbose : int, default=0
        Whether long work shows a progress bar.

    Attributes
    ----------
    network_ : torch.nn.Module
        The network: images (n, 3, height, width) in 0..1 -> features (n, n_features).
    pca_ : sklearn.decomposition.PCA or None
        The reduction of the features.
    mixture_ : sklearn.mixture.GaussianMixture
        The density.
    bank_size_ : int
        Images in the bank.
    label_scale_ : tuple of float
        Slope and intercept of the line from network scores to the unit of y; after `fit` with y only.
    device_ : torch.device
        Where the network runs.

    See Also
    --------
    GIQA : The same paper's score by multiple binary classifiers.
    KNNGIQA : The same paper's score by the nearest features of good images.

    Notes
    -----
    The bank matters most: the paper takes tens of thousands of real images of one kind (faces, cats), and scores say
    little of images of another kind. `fit` with y, where the best images make the bank and the others the unit, is not
    in the paper. A generator's quality score is the mean over its images with a bank of real ones; its diversity score
    is the mean over real images with a bank of its own.

    The network is torchvision's Inception-v3 with the pools and weights of the Fréchet Inception Distance; "imagenet"
    fetches `pt_inception-2015-12-05-6726825d.pth` of mseitzer/pytorch-fid. Images are resized to 299 x 299
    inside it, without antialiasing, as officially. The published code has no licence; this one was written from a
    description.

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

    def __init__(
        self,
        *,
        n_components=5,
        reg_covar=1e-6,
        pca=0.95,
        reference_fraction=0.25,
        backbone="fid_inception",
        backbone_weights="imagenet",
        batch_size=50,
        device="auto",
        random_state=None,
        verbose=0,
    ):
        self.n_components = n_components
        self.reg_covar = reg_covar
        self.pca = pca
        self.reference_fraction = reference_fraction
        self.backbone = backbone
        self.backbone_weights = backbone_weights
        self.batch_size = batch_size
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def _check_parameters(self):
        super()._check_parameters()
        check_scalar(self.n_components, "n_components", Integral, min_val=1)

    def _fit_density(self, bank, seed):
        if len(bank) < self.n_components:
            raise ValueError(
                f"{type(self).__name__} fits n_components={self.n_components} Gaussians, but the bank has {len(bank)} "
                "images; give more good images, or fewer components."
            )
        self.pca_ = fitted_pca(self.pca, bank, seed)
        self.mixture_ = GaussianMixture(self.n_components, reg_covar=self.reg_covar, random_state=seed)
        self.mixture_.fit(reduced(self.pca_, bank))

    def _densities(self, features):
        return self.mixture_.score_samples(reduced(self.pca_, features))


class KNNGIQA(GoodImagesMixin, QualityRegressor):
    r"""Generated Image Quality Assessment by the nearest good images (KNN-GIQA).

    The score is the sum of the inverse distances to the :math:`K` nearest images of the bank,

    .. math:: s(x) = \sum_{k=1}^{K} 1 / \lVert f(x) - f(x_k) \rVert_1 ,

    above 0, **higher is better**.

    Parameters
    ----------
    n_neighbors : int, default=1
        Nearest images, K.
    pca : float, int or None, default=0.95
        Principal components that the features are reduced to: a number of them, the share of variance to keep, or None
        for the features as they are.
    reference_fraction : float, default=0.25
        Share of the images, those of highest y, that make the bank when `fit` is given y, in (0, 1].
    backbone : str, default="fid_inception"
        Network of the features: "fid_inception", the Inception-v3 of the Fréchet Inception Distance, or a timm name.
    backbone_weights : {"imagenet", "bundled"}, path or None, default="imagenet"
        Pretraining of the backbone when `weights` is None: "imagenet" is fetched by timm or torchvision at `fit`,
        "bundled" is read from an installed package, None starts from random numbers.
    batch_size : int, default=50
        Rows in one step of training, and the most views in one pass when predicting. Scores do not depend on it.
    device : str, default="auto"
        Where the network runs: "auto" takes the first of "cuda", "mps" and "cpu" that is there.
    random_state : int, RandomState instance or None, default=None
        Seeds weights, order and crops. An int gives equal results for equal data on one machine's CPU.
    verbose : int, default=0
        Whether long work shows a progress bar.

    Attributes
    ----------
    network_ : torch.nn.Module
        The network: images (n, 3, height, width) in 0..1 -> features (n, n_features).
    pca_ : sklearn.decomposition.PCA or None
        The reduction of the features.
    bank_ : ndarray of shape (n_images, n_components)
        The features of the good images, reduced.
    neighbors_ : sklearn.neighbors.NearestNeighbors
        The search in the bank.
    bank_size_ : int
        Images in the bank.
    label_scale_ : tuple of float
        Slope and intercept of the line from network scores to the unit of y; after `fit` with y only.
    device_ : torch.device
        Where the network runs.

    See Also
    --------
    GIQA : The same paper's score by multiple binary classifiers.
    GMMGIQA : The same paper's score by a mixture of Gaussians over features of good images.

    Notes
    -----
    The bank matters most: the paper takes tens of thousands of real images of one kind (faces, cats), and scores say
    little of images of another kind. `fit` with y, where the best images make the bank and the others the unit, is not
    in the paper. A generator's quality score is the mean over its images with a bank of real ones; its diversity score
    is the mean over real images with a bank of its own.

    The network is torchvision's Inception-v3 with the pools and weights of the Fréchet Inception Distance; "imagenet"
    fetches `pt_inception-2015-12-05-6726825d.pth` of mseitzer/pytorch-fid. Images are resized to 299 x 299
    inside it, without antialiasing, as officially. The published code has no licence; this one was written from a
    description.

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

    def __init__(
        self,
        *,
        n_neighbors=1,
        pca=0.95,
        reference_fraction=0.25,
        backbone="fid_inception",
        backbone_weights="imagenet",
        batch_size=50,
        device="auto",
        random_state=None,
        verbose=0,
    ):
        self.n_neighbors = n_neighbors
        self.pca = pca
        self.reference_fraction = reference_fraction
        self.backbone = backbone
        self.backbone_weights = backbone_weights
        self.batch_size = batch_size
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    score_range = (0.0, np.inf)

    def _check_parameters(self):
        super()._check_parameters()
        check_scalar(self.n_neighbors, "n_neighbors", Integral, min_val=1)

    def _fit_density(self, bank, seed):
        if len(bank) < self.n_neighbors:
            raise ValueError(
                f"{type(self).__name__} looks for n_neighbors={self.n_neighbors}, but the bank has {len(bank)} images; "
                "give more good images, or fewer neighbours."
            )
        self.pca_ = fitted_pca(self.pca, bank, seed)
        self.bank_ = reduced(self.pca_, bank)
        self.neighbors_ = NearestNeighbors(n_neighbors=self.n_neighbors, metric="manhattan").fit(self.bank_)

    def _densities(self, features):
        places = reduced(self.pca_, features)
        nearest = self.bank_[self.neighbors_.kneighbors(places, return_distance=False)]
        # NOTE[DIFF] paper: any distance; code: L1, with a small number added to every difference, so that an image of
        # the bank has a finite score.
        return (1 / np.abs(places[:, None] - nearest + DISTANCE_OFFSET).sum(2)).sum(1)
