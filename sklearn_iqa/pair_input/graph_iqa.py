# SPDX-License-Identifier: BSD-3-Clause
"""GraphIQA: distortion graphs of batches of images (Sun, Yu, Xu, Zhou, Chen, IEEE TMM 2023)."""

from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_array, check_consistent_length, check_random_state
from torch import nn

from sklearn_iqa._base.devices import seeded
from sklearn_iqa._base.failures import RAISE
from sklearn_iqa._base.parameters import CROPS, POSITIVE, PRETRAINED, STOPPING, TRAINING, at_least
from sklearn_iqa._base.quality import QualityRegressor, check_quality
from sklearn_iqa._base.tasks import Episodes, TasksMixin, draw, has_quality, task_numbers, task_rows, without_labels
from sklearn_iqa._base.training import Stage, Subset
from sklearn_iqa._nn import timm_backbones, transforms
from sklearn_iqa._nn.layers import Float32Sequential, in_float32
from sklearn_iqa.distortions import DISTORTIONS, distort

CODE_WIDTH, N_TYPES = 256, 25  # dimension of a distortion's code; types of KADID-10k, whose classifier no loss uses
TRIPLET_MARGIN, LEVEL_WEIGHT = 0.1, 0.25
N_LEVELS = 5  # of a distortion that is made
MIN_DEGREE = 1e-2  # of a node, before the square root
RESNET_CHILDREN = {0: "conv1", 1: "bn1", 4: "layer1", 5: "layer2", 6: "layer3", 7: "layer4"}
KEY_MAP = (
    (r"^module\.", ""),
    (r"^domainlevelgraph\.", ""),
    (r"^(predictor|gcn_v\.gcn)\.", None),  # unused
    (r"^(gcn_v|hyperpred|hyperpredmos)\.fc\.", r"\1."),
    (r"^(gcn_e|domain_learner)\.gcn\.", r"\1."),
    *((rf"^extractor\.feature_extractor\.{i}\.", f"extractor.{name}.") for i, name in RESNET_CHILDREN.items()),
)


def sample(output: torch.Tensor) -> torch.Tensor:
    """Sample (n,) from n normal distributions, given as mean and scale of either sign (n, 2)."""
    return output[:, 0] + output[:, 1] * torch.randn_like(output[:, 0])


def perceptron(*widths: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers = [layer for sizes in pairwise(widths) for layer in (nn.Linear(*sizes), nn.ReLU())]
    return Float32Sequential(*layers[:-1])


class GraphConvolutions(nn.Module):
    """Three graph convolutions: normalised adjacency (g, n, n), nodes (g, n, c) -> (g, n, d)."""

    def __init__(self, width_in: int, width_out: int):
        super().__init__()
        widths = pairwise((width_in, 1024, 512, width_out))
        self.W1, self.W2, self.W3 = (nn.Linear(*sizes, bias=False) for sizes in widths)

    @in_float32
    def forward(self, adjacency, nodes):
        for layer in (self.W1, self.W2):
            nodes = F.relu(layer(adjacency @ nodes))
        return self.W3(adjacency @ nodes)


def normalized_adjacency(similarity: torch.Tensor) -> torch.Tensor:
    """Similarities A (g, n, n) of the nodes of g graphs -> D^-1/2 (A + I) D^-1/2, D the degrees, row sums of A + I."""
    adjacency = similarity + torch.eye(similarity.shape[-1], device=similarity.device)
    # NOTE[DIFF] official: no bound, so that a degree below zero gives NaN everywhere.
    roots = adjacency.sum(-1).clamp(min=MIN_DEGREE).rsqrt()
    return roots[..., None] * adjacency * roots[..., None, :]


class GraphIQANetwork(nn.Module):
    """A batch of images is one graph in training mode; in eval mode each image is its own graph."""

    def __init__(self, extractor: Any, edge_dim: int):
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

    @in_float32
    def edges(self, graphs):
        """Features (g, n, c) of the images of g graphs -> an embedding of each pair of images, (g, n, n, k)."""
        unit = F.normalize(graphs, dim=-1)
        products = (unit[:, :, None] * unit[:, None]).flatten(1, 2)  # (g, n * n, c)
        directions = F.normalize(products, dim=-1)
        adjacency = normalized_adjacency(directions @ directions.mT)  # (g, n * n, n * n)
        return self.gcn_e(adjacency, products).unflatten(1, (graphs.shape[1],) * 2)

    def distortion(self, images):
        """Crops (n, 3, s, s) of one distortion, as one graph -> its code (1, 256), levels of the crops (n, 2)."""
        graph = self.extractor(images)[None]  # (1, n, c)
        nodes, edges = self.gcn_v(graph), self.edges(graph)
        codes = self.domain_learner(normalized_adjacency(edges.mean(-1)), nodes)  # (1, n, 256)
        return codes.mean(1), self.hyperpred(torch.cat([nodes, edges.mean(2)], -1))[0]


class DistortionModule(nn.Sequential):
    """Anchors, positives and negatives, n each, (3 n, 3, s, s) -> three codes (1, 256), levels of the anchors."""

    def forward(self, images):
        (network,), (anchor, *others) = self, images.chunk(3)
        code, levels = network.distortion(anchor)
        with torch.no_grad():
            codes = [network.distortion(other)[0] for other in others]
        return (code, *codes), levels


class DistortionLoss(nn.Module):
    """Triplet loss of codes, and squared error of sampled levels; the target's first column is the level."""

    def forward(self, output, target):
        codes, levels = output
        triplet = F.triplet_margin_loss(*codes, margin=TRIPLET_MARGIN)
        return triplet + LEVEL_WEIGHT * F.mse_loss(sample(levels), target[: len(levels), 0])


class SampledSquaredError(nn.Module):
    """Squared error of sampled scores."""

    def forward(self, output, target):
        return F.mse_loss(sample(output), target)


class GraphIQA(TasksMixin, QualityRegressor):
    r"""Distortion graphs: images of one distortion are nodes, products of their features edges.

    Features :math:`x_i` of a frozen classifier are projected to nodes :math:`v_i`, and graph convolutions over the
    products of any two :math:`x / \lVert x \rVert` give the edge :math:`e_{ij}` of each pair of images. The first stage
    trains codes of graphs to agree for one type of distortion and to differ for two, the second predicts quality as a
    distribution, :math:`q_i \sim \mathcal{N}(m_i, s_i^2), (m_i, s_i) = f(v_i, e_{ii})`. The score is the mean of
    :math:`m` over crops, each its own graph; it is unbounded, **higher is better**.

    Parameters
    ----------
    backbone : str, default="resnet50.tv_in1k"
        Frozen backbone: any network of timm.
    edge_dim : int, default=16
        Dimension of an edge's embedding.
    crop_size : int, default=224
        Side of the square crops in pixels.
    n_crops : int, default=25
        Crops scored for each image.
    crops : {"grid", "random"}, default="grid"
        Evenly spaced, or random as in the official code. Random positions depend on the pixels and on an integer
        `random_state` (0 for any other) alone: an image always gets the same.
    eval_noise : bool, default=False
        Whether `predict` samples each crop's score, as the official code does, instead of taking its mean. Samples
        depend on `random_state` and on the row of an image in X.
    pretrain_steps : int, default=5000
        Steps of the first stage; 0 skips it.
    pretrain_lr : float, default=1e-5
        Learning rate of the first stage.
    weights : str or path, default=None
        Trained weights of the network: a file (`.pth`, `.pt`, `.safetensors`, `.npz`), or, where the Notes tell of
        published weights, one of their names or "default" for the first. `predict` then works without `fit`, and `fit`
        goes on from there. None trains anew, from `backbone_weights` where there are any.
    backbone_weights : {"imagenet", "bundled"}, path or None, default="imagenet"
        Pretraining of the backbone when `weights` does not hold it: "imagenet" is fetched by timm or torchvision when
        the network is built, "bundled" is read from an installed package, a file may have the names of timm,
        torchvision or transformers, None starts from random numbers.
    batch_size : int, default=32
        Rows in one step of training.
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
        The network: normalised crops (n, 3, s, s) -> mean and scale of each score (n, 2).
    label_scale_ : tuple of float
        Slope and intercept of the line from network scores to the unit of y; after `fit` only.
    n_pretrain_steps_ : int
        Steps of the first stage, over all calls of `fit` and `partial_fit`.
    n_iter_ : int
        Epochs trained.
    n_steps_ : int
        Steps of the optimiser, over all epochs.
    interrupted_ : bool
        Whether the last call of `fit` or `partial_fit` ended early, by an interruption or an error; the epochs of
        `n_iter_` are then what it learned.
    loss_curve_ : list of float
        Mean training loss of each epoch.
    validation_scores_ : list of float
        Spearman correlation on the held-out part after each epoch; with `early_stopping` only.
    device_ : torch.device
        Where the network runs.

    Notes
    -----
    Published weights: none by name; the authors' file loads by path, with its `edge_dim`, and replaces the first stage.
    A step of the first stage takes `batch_size` images of a type of distortion as anchors, as many positives of the
    same and as many negatives of another. Without `distortion` in `fit` they are crops of X, regardless of its quality,
    distorted in the 25 kinds and five levels of :mod:`sklearn_iqa.distortions`. The authors ran this stage once, on
    many distorted images without ratings, and the second for each database:
    ``GraphIQA().fit(distorted, None, distortion=types, level=levels).save_weights(path)``, then
    ``GraphIQA(weights=path).fit(X, y)``.

    An epoch takes one random crop of each image, that of the authors 25: hence 50 times 25 epochs. Labels are
    standardised, by the authors not. Small images are enlarged (bilinear).

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

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **TRAINING,
        **STOPPING,
        **PRETRAINED,
        **CROPS,
        "backbone": [str],
        "edge_dim": [at_least(1)],
        "crop_size": [at_least(1)],
        "eval_noise": ["boolean"],
        "pretrain_steps": [at_least(0)],
        "pretrain_lr": [POSITIVE],
    }
    _test_params: ClassVar[dict[str, Any]] = {
        "backbone": "test_resnet",
        "crop_size": 32,
        "n_crops": 2,
        "pretrain_steps": 1,
        "backbone_weights": None,
        "batch_size": 4,
        "max_epochs": 1,
        "lr": 0.001,
    }

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
        precision="float32",
        compile=False,
        n_jobs=None,
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
        self.precision = precision
        self.compile = compile
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X, y=None, sample_weight=None, *, distortion=None, level=None):
        """Train on types and levels of distortion, then on quality.

        Parameters
        ----------
        X : container of n images
            See the user guide, "What X and y are".
        y : array-like of shape (n,), default=None
            Quality of each image, higher is better. None trains the first stage alone, from `weights` where they are
            given: for `save_weights`, or for a `partial_fit` or a `fit` with `warm_start` that goes on.
        sample_weight : array-like of shape (n,), default=None
            How often a row is drawn for training, relative to the others; None draws each once per epoch.
        distortion : array-like of shape (n,), default=None
            Type of distortion of each image: names or numbers, at least two different ones. None distorts the images.
            With y it is refused where the first stage is not trained: with `weights`, with ``pretrain_steps=0``, and
            after a `fit` without y.
        level : array-like of shape (n,), default=None
            Level of each, 1 (least distorted) to 5; goes with `distortion`.

        Returns
        -------
        self : estimator
            The fitted estimator.
        """
        return self._fit(X, y, sample_weight, distortion=distortion, level=level)

    def partial_fit(self, X, y=None, sample_weight=None, *, distortion=None, level=None):
        """Train for one epoch, going on from where the estimator stands; the first call runs the first stage.

        Parameters
        ----------
        X, y, sample_weight, distortion, level
            As in `fit`. Without y each call takes `pretrain_steps` further steps of the first stage; calls behind the
            first epoch of the second one take no notice of `distortion` and `level`.

        Returns
        -------
        self : estimator
            The fitted estimator.
        """
        return self._partial_fit(X, y, sample_weight, distortion=distortion, level=level)

    def _network(self):
        fixed = timm_backbones.input_config(self.backbone)["fixed_input_size"]
        facts = {"img_size": self.crop_size} if fixed else {}
        return GraphIQANetwork(timm_backbones.build_backbone(self.backbone, num_classes=0, **facts), self.edge_dim)

    def _load_backbone(self, network):
        timm_backbones.load_backbone(network.extractor, self.backbone, self.backbone_weights)

    def _loss(self):
        return SampledSquaredError()

    def _start(self, targets, sample_weight):
        self.n_pretrain_steps_ = 0
        super()._start(targets, sample_weight)

    def _train(self, rows, targets, sample_weight, n_epochs, seed, tasks):
        if has_quality(targets):
            super()._train(rows, targets, sample_weight, n_epochs, seed, tasks)
            return
        if getattr(self, "n_iter_", 0) > 0:
            raise ValueError(
                "y is None, which trains the first stage, but this estimator is in the second; give the quality of X, "
                "or start anew by a fit with warm_start=False."
            )
        self.n_iter_ = self.n_steps_ = 0
        self.loss_curve_ = []
        seed += self.n_pretrain_steps_  # goes on with other draws
        with seeded(seed, self.device_):
            self._run_stages(rows, targets, sample_weight, seed)

    def _stages_before(self, rows, targets, sample_weight):
        done = self.weights is not None or self.n_pretrain_steps_ > 0
        if has_quality(targets) and (done or self.pretrain_steps == 0):
            if not without_labels(targets):
                reason = "was trained already" if done else "pretrain_steps=0 leaves out"
                raise ValueError(
                    f"distortion and level are for the first stage, which {reason}; leave them out, or give None for y "
                    "to train that stage with them."
                )
            return
        tasks = task_rows(targets, len(DISTORTIONS))
        if len(tasks) < 2:
            raise ValueError("distortion has one type in training, but types are compared; give two or no distortion.")
        made, n_rows = without_labels(targets), len(targets)
        if made:  # all at each level of the first type, then of the others
            kinds, levels = (one.repeat(n_rows) for one in np.indices((len(tasks), N_LEVELS)).reshape(2, -1))
            images = np.column_stack([levels + 1, kinds, levels + 1])
        else:  # of one type and level each, and not to be distorted
            images = np.column_stack([targets[:, 2], targets[:, 1], np.zeros(n_rows)])

        def steps(n):
            for _ in range(n):
                # Of the anchors, positives and negatives.
                types = torch.rand(len(tasks)).argsort()[[0, 0, 1]].numpy()
                row = np.concatenate([draw(tasks[kind], self.batch_size, sample_weight) for kind in types])
                kind, level = types.repeat(self.batch_size), torch.randint(N_LEVELS, (len(row),)).numpy()
                yield (kind * N_LEVELS + level) * n_rows + row if made else row

        def view(x, target):
            _, kind, level = target.astype(int)
            return self._crop(x, kind, level)

        yield Stage(
            "types and levels",
            DistortionModule(self.network_),
            DistortionLoss(),
            1,
            Subset(rows, np.arange(len(images)) % n_rows),
            images.astype(np.float32),
            view,
            lr=self.pretrain_lr,
            net_params={
                "iterator_train__sampler": Episodes,
                "iterator_train__lengths": [self.pretrain_steps],
                "iterator_train__draw": steps,
            },
        )
        self.n_pretrain_steps_ += self.pretrain_steps

    def _enlarged(self, x):
        small = min(x.shape[:2]) < self.crop_size
        return transforms.resize_shorter(x, self.crop_size, Image.Resampling.BILINEAR) if small else x

    def _normalized(self, pixels):
        config = timm_backbones.input_config(self.backbone)
        return transforms.normalize(pixels, config["mean"], config["std"])

    def _crop(self, x, kind=0, level=0):
        crop = transforms.to_tensor(transforms.random_square(self._enlarged(x), self.crop_size))
        if level > 0:
            pixels, seed = crop.movedim(0, -1).numpy(), int(torch.randint(2**31 - 1, ()))
            crop = transforms.to_tensor(distort(pixels, DISTORTIONS[kind], level, random_state=seed))
        return self._normalized(crop)

    def _train_view(self, x):
        return self._crop(x)

    def _views(self, x):
        kind = {"crops": self.crops, "random_state": self.random_state}
        image = self._enlarged(x)
        places = transforms.places_to_score(image, self.crop_size, self.n_crops, content=x, **kind)
        return self._normalized(transforms.squares(image, places, self.crop_size, transforms.to_tensor))

    def _infer(self, rows, failures=RAISE):
        if hasattr(self, "n_pretrain_steps_") and not hasattr(self, "label_scale_"):
            raise NotFittedError("This GraphIQA was fitted without y and predicts no quality; call fit with one first.")
        seed = check_random_state(self.random_state).randint(2**31 - 1) if self.eval_noise else 0
        for row, output in super()._infer(rows, failures):
            with seeded(seed + row):
                scores = sample(output) if self.eval_noise else output[:, 0]
            yield row, scores

    def _check_targets(self, rows, y, distortion=None, level=None) -> np.ndarray:
        """Quality, number of the type and level: (n, 3); NaN where not given."""
        if y is None and self.pretrain_steps == 0:
            raise ValueError(
                "GraphIQA requires y to be passed, but the target y is None, which trains the first stage alone, and "
                "pretrain_steps=0 leaves that out; give one quality per row of X, or more steps."
            )
        quality = np.full(len(rows), np.nan) if y is None else check_quality(rows, y, type(self).__name__)
        if (distortion is None) != (level is None):
            raise ValueError("distortion and level belong together, but only one was given; give both or none.")
        if distortion is None:
            return np.column_stack([quality, np.full((len(rows), 2), np.nan)])
        check_consistent_length(rows, level)
        level = check_array(level, ensure_2d=False, dtype=float, input_name="level")
        return np.column_stack([quality, task_numbers(rows, distortion), level])

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = False
        return tags
