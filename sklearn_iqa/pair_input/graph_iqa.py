# SPDX-License-Identifier: BSD-3-Clause
"""GraphIQA: a batch of images of one distortion as a graph (Sun, Yu, Xu, Zhou, Chen, IEEE TMM 2023)."""

from itertools import pairwise
from numbers import Integral, Real

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.utils import check_array, check_consistent_length, check_random_state, check_scalar, column_or_1d
from torch import nn

from sklearn_iqa._base.devices import seeded
from sklearn_iqa._base.quality import QualityRegressor, check_quality
from sklearn_iqa._base.training import Stage, Subset
from sklearn_iqa._nn import timm_backbones, transforms
from sklearn_iqa.distortions import DISTORTIONS, distort

CODE_WIDTH, N_TYPES = 256, 25  # length of the code of a distortion; types of KADID-10k, which no loss uses
TRIPLET_MARGIN, LEVEL_WEIGHT = 0.1, 0.25
MIN_DEGREE = 1e-2  # of a node, under the root
RESNET_CHILDREN = {0: "conv1", 1: "bn1", 4: "layer1", 5: "layer2", 6: "layer3", 7: "layer4"}
KEY_MAP = (
    (r"^module\.", ""),
    (r"^domainlevelgraph\.", ""),
    (r"^(predictor|gcn_v\.gcn)\.", None),  # nothing uses them
    (r"^(gcn_v|hyperpred|hyperpredmos)\.fc\.", r"\1."),
    (r"^(gcn_e|domain_learner)\.gcn\.", r"\1."),
    *((rf"^extractor\.feature_extractor\.{i}\.", f"extractor.{name}.") for i, name in RESNET_CHILDREN.items()),
)


def sample(output: torch.Tensor) -> torch.Tensor:
    """Draw a number (n,) from each of n normal distributions, given as mean and scale (n, 2), of either sign."""
    return output[:, 0] + output[:, 1] * torch.randn_like(output[:, 0])


def perceptron(*widths: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers = [layer for sizes in pairwise(widths) for layer in (nn.Linear(*sizes), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


class GraphConvolutions(nn.Module):
    """Three layers that mix each node with its neighbours: links (g, n, n), nodes (g, n, c) -> (g, n, d)."""

    def __init__(self, width_in: int, width_out: int):
        super().__init__()
        widths = pairwise((width_in, 1024, 512, width_out))
        self.W1, self.W2, self.W3 = (nn.Linear(*sizes, bias=False) for sizes in widths)

    def forward(self, links, nodes):
        for layer in (self.W1, self.W2):
            nodes = F.relu(layer(links @ nodes))
        return self.W3(links @ nodes)


def normalized_links(similarity: torch.Tensor) -> torch.Tensor:
    """Similarities (g, n, n) of the nodes of g graphs -> D^-1/2 (A + I) D^-1/2, with the row sums in D."""
    links = similarity + torch.eye(similarity.shape[-1], device=similarity.device)
    # NOTE[DIFF] official: no bound, so that a sum below zero makes everything NaN.
    roots = links.sum(-1).clamp(min=MIN_DEGREE).rsqrt()
    return roots[..., None] * links * roots[..., None, :]


class GraphIQANetwork(nn.Module):
    """A batch of images is one graph in training mode; otherwise each image is a graph of its own."""

    def __init__(self, extractor: nn.Module, edge_dim: int):
        super().__init__()
        width = getattr(extractor, "head_hidden_size", extractor.num_features)
        joint = width + edge_dim
        self.gcn_v = perceptron(width, width, width, width)
        self.gcn_e = GraphConvolutions(width, edge_dim)
        self.hyperpred, self.hyperpredmos = (perceptron(joint, joint // 2, 2) for _ in range(2))
        self.domain_learner = GraphConvolutions(width, CODE_WIDTH)
        self.classifier = nn.Linear(CODE_WIDTH, N_TYPES)
        for parameter in self.parameters():
            (nn.init.xavier_uniform_ if parameter.ndim > 1 else nn.init.zeros_)(parameter)
        self.extractor = extractor.requires_grad_(False)

    def forward(self, images):
        """Normalised crops (n, 3, s, s) -> mean and scale of each score (n, 2)."""
        features = self.extractor(images)  # (n, c)
        graphs = features[None] if self.training else features[:, None]  # (g, n / g, c)
        own_edges = self.edges(graphs).diagonal(dim1=1, dim2=2).mT  # (g, n / g, k)
        return self.hyperpredmos(torch.cat([self.gcn_v(graphs), own_edges], -1)).flatten(0, 1)

    def edges(self, graphs):
        """Features (g, n, c) of the images of g graphs -> an embedding of every pair of a graph, (g, n, n, k)."""
        unit = F.normalize(graphs, dim=-1)
        products = (unit[:, :, None] * unit[:, None]).flatten(1, 2)  # (g, n * n, c)
        directions = F.normalize(products, dim=-1)
        links = normalized_links(directions @ directions.mT)  # (g, n * n, n * n)
        return self.gcn_e(links, products).unflatten(1, (graphs.shape[1],) * 2)

    def distortion(self, images):
        """Crops (n, 3, s, s) of one distortion, as one graph -> its code (1, 256), levels of the crops (n, 2)."""
        graph = self.extractor(images)[None]  # (1, n, c)
        nodes, edges = self.gcn_v(graph), self.edges(graph)
        codes = self.domain_learner(normalized_links(edges.mean(-1)), nodes)  # (1, n, 256)
        return codes.mean(1), self.hyperpred(torch.cat([nodes, edges.mean(2)], -1))[0]


class DistortionModule(nn.Sequential):
    """n crops of a type, n more of it, n of another, (1, 3 n, 3, s, s) -> three codes (1, 256), levels of the first."""

    def forward(self, steps):
        (network,), (anchor, *others) = self, steps[0].chunk(3)
        code, levels = network.distortion(anchor)
        with torch.no_grad():
            codes = [network.distortion(other)[0] for other in others]
        return (code, *codes), levels


class DistortionLoss(nn.Module):
    """Triplet loss of codes, squared error of levels with their noise; these are the target's second column."""

    def forward(self, output, target):
        codes, levels = output
        triplet = F.triplet_margin_loss(*codes, margin=TRIPLET_MARGIN)
        return triplet + LEVEL_WEIGHT * F.mse_loss(sample(levels), target[0, : len(levels), 1])


class SampledSquaredError(nn.Module):
    """Squared error of scores that are drawn with their noise."""

    def forward(self, output, target):
        return F.mse_loss(sample(output), target)


class GraphIQA(QualityRegressor):
    r"""Distortion graphs: images of one distortion are nodes, products of their features edges.

    Features :math:`x_i` of a frozen classifier become nodes :math:`v_i`, and graph convolutions over the products of
    any two :math:`x / \lVert x \rVert` give an edge :math:`e_{ij}` to every pair of images. First, graphs of one type
    of distortion learn to agree and of two to differ, then quality is learned, with its noise:
    :math:`q_i \sim \mathcal{N}(m_i, s_i^2), (m_i, s_i) = f(v_i, e_{ii})`. The score is the mean of :math:`m` over
    crops, each a graph by itself; it has no bounds, **higher is better**.

    Parameters
    ----------
    backbone : str, default="resnet50.tv_in1k"
        Frozen backbone: any network of timm.
    edge_dim : int, default=16
        Length of an edge's embedding.
    crop_size : int, default=224
        Side of the square crops that the network sees, in pixels.
    n_crops : int, default=25
        Crops of an image whose scores are averaged.
    crops : {"grid", "random"}, default="grid"
        Whether these lie on a grid or are drawn, which depends on the pixels and `random_state` alone.
    eval_noise : bool, default=False
        Whether `predict` draws each crop's score, as the official code does, instead of taking its mean. Draws depend
        on `random_state` and on the place of an image in X.
    pretrain_steps : int, default=5000
        Steps of the first stage; 0 leaves it out.
    pretrain_lr : float, default=1e-5
        Learning rate of these.
    weights : str or path, default=None
        Trained weights of the whole network: a file (`.pth`, `.pt`, `.safetensors`, `.npz`) or a published name, see
        Notes. `predict` then works without `fit`, and `fit` goes on from there. None trains from the backbone's own
        pretraining.
    backbone_weights : {"imagenet", "bundled"}, path or None, default="imagenet"
        Pretraining of the backbone when `weights` is None: "imagenet" is fetched by timm or torchvision at `fit`,
        "bundled" is read from an installed package, None starts from random numbers.
    batch_size : int, default=32
        Rows in one step of training, and the most views in one pass when predicting. Scores do not depend on it.
    max_epochs : int, default=1250
        Passes over the training data.
    lr : float, default=5e-6
        Learning rate.
    early_stopping : bool, default=False
        Whether to hold out a part of the training data, to stop when its Spearman correlation no longer rises, and to
        keep the best weights. Pairs that share a reference are held out together.
    validation_fraction : float, default=0.1
        Part held out for `early_stopping`, in (0, 1).
    n_iter_no_change : int, default=10
        Epochs without a better score after which `early_stopping` stops.
    warm_start : bool, default=False
        Whether `fit` goes on from the last `fit` instead of starting anew.
    device : str, default="auto"
        Where the network runs: "auto" takes the first of "cuda", "mps" and "cpu" that is there.
    random_state : int, RandomState instance or None, default=None
        Seeds weights, order and crops. An int gives equal results for equal data on one machine's CPU.
    verbose : int, default=0
        Whether long work shows a progress bar.

    Attributes
    ----------
    network_ : torch.nn.Module
        The network: normalised crops (n, 3, s, s) -> mean and scale of each score (n, 2).
    label_scale_ : tuple of float
        Slope and intercept of the line from network scores to the unit of y; after `fit` only.
    n_iter_ : int
        Epochs trained.
    loss_curve_ : list of float
        Mean training loss of each epoch.
    validation_scores_ : list of float
        Spearman correlation on the held-out part after each epoch; with `early_stopping` only.
    device_ : torch.device
        Where the network runs.

    Notes
    -----
    Published weights: none by name; the authors' file loads by path, with the `edge_dim` it has, in place of the first
    stage. A step of that takes `batch_size` images of a type of distortion, as many more and as many of another, and
    without `distortion` in `fit` makes them of X, whatever its quality: crops, in 25 kinds and five levels of
    :mod:`sklearn_iqa.distortions`. An epoch takes one random crop of each image, the authors' one 25: hence 50 times
    25 epochs. They learned labels in raw units, here standardised. Small images are enlarged (bilinear).

    References
    ----------
    .. [1] S. Sun, T. Yu, J. Xu, W. Zhou, Z. Chen, "GraphIQA: Learning Distortion Graph Representations for Blind Image
       Quality Assessment", IEEE Transactions on Multimedia 25, 2023. https://github.com/geekyutao/GraphIQA

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_iqa import GraphIQA
    >>> small = {"backbone": "test_resnet", "backbone_weights": None, "crop_size": 32}
    >>> graph_iqa = GraphIQA(**small, random_state=0).initialize()
    >>> graph_iqa.predict(np.zeros((4, 40, 50, 3), np.uint8)).shape
    (4,)
    """

    key_map = KEY_MAP

    def __init__(
        self,
        *,
        backbone="resnet50.tv_in1k",
        edge_dim=16,
        crop_size=224,
        n_crops=25,
        crops="grid",
        eval_noise=False,
        pretrain_steps=5000,
        pretrain_lr=1e-5,
        weights=None,
        backbone_weights="imagenet",
        batch_size=32,
        max_epochs=1250,
        lr=5e-6,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=10,
        warm_start=False,
        device="auto",
        random_state=None,
        verbose=0,
    ):
        self.backbone = backbone
        self.edge_dim = edge_dim
        self.crop_size = crop_size
        self.n_crops = n_crops
        self.crops = crops
        self.eval_noise = eval_noise
        self.pretrain_steps = pretrain_steps
        self.pretrain_lr = pretrain_lr
        self.weights = weights
        self.backbone_weights = backbone_weights
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.lr = lr
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X, y, sample_weight=None, *, distortion=None, level=None):
        """Train on types and levels of distortion, then on quality.

        Parameters
        ----------
        X, y, sample_weight
            As for every method: images, their quality, how often each is drawn.
        distortion : array-like of shape (n,), default=None
            Type of distortion of each image: names or numbers, at least two. None makes distorted images of X.
        level : array-like of shape (n,), default=None
            Level of each, 1 (least distorted) to 5; goes with `distortion`.

        Returns
        -------
        self : estimator
            The fitted estimator.
        """
        n_epochs, resume = self.max_epochs, self.warm_start
        return self._fit(X, y, sample_weight, n_epochs=n_epochs, resume=resume, distortion=distortion, level=level)

    def partial_fit(self, X, y, sample_weight=None, *, distortion=None, level=None):
        """Train for one epoch, going on from where the estimator stands; the first call runs the first stage.

        Parameters
        ----------
        X, y, sample_weight, distortion, level
            As in `fit`.

        Returns
        -------
        self : estimator
            The fitted estimator.
        """
        return self._fit(X, y, sample_weight, n_epochs=1, resume=True, distortion=distortion, level=level)

    def _network(self):
        fixed = timm_backbones.input_config(self.backbone)["fixed_input_size"]
        facts = {"img_size": self.crop_size} if fixed else {}
        return GraphIQANetwork(timm_backbones.build_backbone(self.backbone, num_classes=0, **facts), self.edge_dim)

    def _load_backbone(self, network):
        timm_backbones.load_backbone(network.extractor, self.backbone, self.backbone_weights)

    def _loss(self):
        return SampledSquaredError()

    def _stages_before(self, rows, targets):
        made = np.isnan(targets[0, 1])
        kinds = range(len(DISTORTIONS)) if made else np.unique(targets[:, 1])
        if self.weights is not None or self.pretrain_steps == 0:
            return
        if len(kinds) < 2:
            raise ValueError("distortion has one type in training, but types are compared; give two or no distortion.")
        groups = [np.flatnonzero(made | (targets[:, 1] == kind)) for kind in kinds]
        # Of each step the type of anchor and positives, that of the negatives, and images of them.
        types = torch.rand(self.pretrain_steps, len(groups)).argsort(1)[:, [0, 0, 1]].numpy()
        row = [groups[kind][torch.randint(len(groups[kind]), (self.batch_size,))] for kind in types.ravel()]
        row, kind = np.reshape(row, (len(types), -1)), types.repeat(self.batch_size, axis=1)
        labels = np.stack([kind, torch.randint(1, 6, kind.shape) if made else targets[row, 2], row], axis=-1)

        def view(_, step):
            crops = (self._crop(self._open(rows, int(row)), kind, level * made) for kind, level, row in step)
            return torch.stack(list(crops))

        parts = DistortionModule(self.network_), DistortionLoss(), 1, Subset(rows, row[:, 0])
        yield Stage("types and levels", *parts, labels, view, self.pretrain_lr, {"iterator_train__batch_size": 1})

    def _pixels(self, x):
        if min(x.shape[:2]) < self.crop_size:
            x = transforms.resize_shorter(x, self.crop_size, Image.Resampling.BILINEAR)
        return transforms.to_tensor(x)

    def _normalized(self, pixels):
        config = timm_backbones.input_config(self.backbone)
        return transforms.normalize(pixels, config["mean"], config["std"])

    def _crop(self, x, kind=0, level=0):
        crop = transforms.random_crop(self._pixels(x), self.crop_size)
        if level > 0:
            pixels, seed = crop.movedim(0, -1).numpy(), int(torch.randint(2**31 - 1, ()))
            crop = transforms.to_tensor(distort(pixels, DISTORTIONS[int(kind)], int(level), random_state=seed))
        return self._normalized(crop)

    def _train_view(self, x):
        return self._crop(x)

    def _views(self, x):
        kind = {"crops": self.crops, "random_state": self.random_state}
        crops = transforms.crops_to_score(self._pixels(x), self.crop_size, self.n_crops, image=x, **kind)
        return self._normalized(crops)

    def _infer(self, rows):
        seed = check_random_state(self.random_state).randint(2**31 - 1) if self.eval_noise else 0
        for row, output in super()._infer(rows):
            with seeded(seed + row):
                scores = sample(output) if self.eval_noise else output[:, 0]
            yield row, scores

    def _check_parameters(self):
        super()._check_parameters()
        for name, low in (("edge_dim", 1), ("crop_size", 1), ("pretrain_steps", 0)):
            check_scalar(getattr(self, name), name, Integral, min_val=low)
        check_scalar(self.pretrain_lr, "pretrain_lr", Real, min_val=0, include_boundaries="neither")
        transforms.check_crops(self.crops)

    def _check_targets(self, rows, y, distortion=None, level=None) -> np.ndarray:
        """Quality, number of the type and level: (n, 3); the last two NaN where not given."""
        quality = check_quality(rows, y, type(self).__name__)
        if (distortion is None) != (level is None):
            raise ValueError("distortion and level go together, but only one was given; give both or none.")
        if distortion is None:
            return np.column_stack([quality, np.full((len(rows), 2), np.nan)])
        check_consistent_length(rows, distortion, level)
        level = check_array(level, ensure_2d=False, dtype=float, input_name="level")
        return np.column_stack([quality, np.unique(column_or_1d(distortion), return_inverse=True)[1], level])

    def _quality(self, targets):
        return targets[:, 0] if targets.ndim == 2 else targets

    def _encode_targets(self, targets):
        return super()._encode_targets(self._quality(targets))
