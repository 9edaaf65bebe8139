# SPDX-License-Identifier: BSD-3-Clause
"""LPIPS: the distance of deep features, with learned channel weights (Zhang et al., CVPR 2018)."""

from typing import Any, ClassVar

from sklearn_iqa._base.parameters import PRETRAINED, STOPPING, TRAINING, at_least, one_of
from sklearn_iqa._base.perceptual import SLICED_BACKBONE_FILES, PerceptualMixin, load_sliced_backbone
from sklearn_iqa._base.quality import QualityRegressor
from sklearn_iqa._nn.layers import SLICED_BACKBONES, PerceptualDistance, sliced_backbone
from sklearn_iqa._weights.pretrained import PublishedWeights, WeightsFile, pyiqa_file

# The heads are in the state dict twice, as lin0 and as lins.0 (one parameter); the scaling buffers are constants.
KEY_MAP = ((r"^lins\.(\d)\.", r"lin\1."), (r"^scaling_layer\.", None))
HEAD_DIGESTS = {
    ("alex", "0.1"): "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    ("vgg", "0.1"): "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    ("squeeze", "0.1"): "4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76",
    ("alex", "0.0"): "18720f55913d0af89042f13faa7e536a6ce1444a0914e6db9461355ece1e8cd5",
    ("vgg", "0.0"): "b9e4236260c3dd988fc79d2a48d645d885afcbb21f9fd595e6744cf7419b582c",
    ("squeeze", "0.0"): "c27abd3a0145541baa50990817df58d3759c3f8154949f42af3b59b4e042d0bf",
}
SOURCE = "https://github.com/richzhang/PerceptualSimilarity"
PUBLISHED = tuple(
    PublishedWeights(
        name=f"{net}-v{version}",
        files=(
            SLICED_BACKBONE_FILES[net],
            WeightsFile(
                f"lpips-v{version}-{net}.pth",
                digest,
                urls=(
                    f"{SOURCE}/raw/master/lpips/weights/v{version}/{net}.pth",
                    *pyiqa_file(f"LPIPS_v{version}_{net}-{digest[:8]}.pth").urls,  # the same file
                ),
                wheel="lpips",
                wheel_path=f"lpips/weights/v{version}/{net}.pth",
            ),
        ),
        source=SOURCE,
        licence="BSD-2-Clause (heads), BSD-3-Clause (torchvision backbone)",
        trained_on="BAPPS 2AFC (heads), ImageNet (backbone)",
        parameters={"net": net, "version": version},
    )
    for (net, version), digest in HEAD_DIGESTS.items()
)


class LPIPS(PerceptualMixin, QualityRegressor):
    r"""Learned Perceptual Image Patch Similarity: the distance of deep features.

    Query and reference run through an ImageNet network; the feature maps :math:`f^l` of some layers are scaled to
    unit length along channels, and

    .. math:: d = \sum_l \operatorname{mean}_{hw} \sum_c w^l_c\, (\hat q^l_{hwc} - \hat r^l_{hwc})^2 .

    The weights :math:`w \ge 0` are learned from people's choices between two distorted versions of a patch. The score
    is a distance: 0 for identical images, typically below 1, **lower is better**; symmetric in its arguments.

    Parameters
    ----------
    net : {"alex", "vgg", "squeeze"}, default="alex"
        Backbone: AlexNet, VGG-16 or SqueezeNet 1.1. Scores of different backbones cannot be compared.
    version : {"0.1", "0.0"}, default="0.1"
        "0.0" leaves out the scaling of the input, as the first release did by mistake.
    weighted : bool, default=True
        Whether channels have learned weights; otherwise all count alike.
    trainable : {"heads", "all"}, default="heads"
        What `fit` changes: the channel weights (the published metric) or the backbone as well.
    crop_size : int, default=64
        Side of the random crop that training takes of each pair, in pixels; smaller images are enlarged to it.
    weights : str or path, default=None
        Trained weights of the network: a file (`.pth`, `.pt`, `.safetensors`, `.npz`), or, where the Notes tell of
        published weights, one of their names or "default" for the first. `predict` then works without `fit`, and `fit`
        goes on from there. None trains anew, from `backbone_weights` where there are any.
    backbone_weights : {"imagenet", "bundled"}, path or None, default="imagenet"
        Pretraining of the backbone when `weights` does not hold it: "imagenet" is fetched by timm or torchvision when
        the network is built, "bundled" is read from an installed package, a file may have the names of timm,
        torchvision or transformers, None starts from random numbers.
    batch_size : int, default=50
        Rows in one step of training.
    max_epochs : int, default=10
        Passes over the training data.
    lr : float, default=1e-4
        Learning rate.
    early_stopping : bool, default=False
        Whether to hold out a part of the training data, to stop when its Spearman correlation (of triplets its 2AFC
        score) no longer rises, and to keep the best weights. Rows that share a reference are held out together.
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
        The network: pairs (n, 2, 3, height, width) in [-1, 1] -> distance (n,).
    label_scale_ : tuple of float
        Slope and intercept of the line from network scores to the unit of y; after `fit` only.
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
        Spearman correlation, of triplets 2AFC score, on the held-out part after each epoch; with `early_stopping` only.
    device_ : torch.device
        Where the network runs.

    See Also
    --------
    STLPIPS : The same distance, tolerant to small shifts.

    Notes
    -----
    Published weights: "alex-v0.1" ("default"), "vgg-v0.1", "squeeze-v0.1" and the same with "-v0.0"; `net` and
    `version` follow them. The channel weights come from the installed package `lpips` (extra `demo`) or its repository,
    the backbone from torchvision. A file of channel weights alone loads by path, with the backbone of
    `backbone_weights`.

    `fit` takes pairs with their quality (any unit, higher is better; the squared error of the distance is minimised
    and `predict` then has that unit), or triplets (first query, second query, reference) with y the fraction of people
    who preferred the second query, as in BAPPS; `predict`, which takes pairs, then gives the distance, and `score` of
    triplets is the 2AFC score. Training on pairs is not in the paper. Network and numbers follow the official code:
    channel weights apply to the squared difference, the paper writes them inside the square.

    References
    ----------
    .. [1] R. Zhang, P. Isola, A. A. Efros, E. Shechtman, O. Wang, "The Unreasonable Effectiveness of Deep Features as
       a Perceptual Metric", CVPR 2018. https://github.com/richzhang/PerceptualSimilarity

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_iqa import LPIPS
    >>> image = np.tile(np.arange(64, dtype=np.uint8)[:, None], (1, 64))
    >>> lpips = LPIPS(backbone_weights=None, random_state=0).initialize()
    >>> float(lpips.predict([(image, image)])[0])
    0.0
    """

    key_map = KEY_MAP
    published = PUBLISHED

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **TRAINING,
        **STOPPING,
        **PRETRAINED,
        "net": [one_of(*SLICED_BACKBONES)],
        "version": [one_of("0.1", "0.0")],
        "weighted": ["boolean"],
        "trainable": [one_of("heads", "all")],
        "crop_size": [at_least(1)],
    }
    _test_params: ClassVar[dict[str, Any]] = {
        "net": "squeeze",
        "crop_size": 32,
        "backbone_weights": None,
        "batch_size": 4,
        "max_epochs": 1,
        "lr": 0.001,
    }

    def __init__(
        self,
        *,
        net="alex",
        version="0.1",
        weighted=True,
        trainable="heads",
        crop_size=64,
        weights=None,
        backbone_weights="imagenet",
        batch_size=50,
        max_epochs=10,
        lr=1e-4,
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
        self.net = net
        self.version = version
        self.weighted = weighted
        self.trainable = trainable
        self.crop_size = crop_size
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

    @property
    def min_size(self):
        """Shortest side in pixels that the backbone takes."""
        return SLICED_BACKBONES[self._chosen.net].min_size

    def _network(self):
        net, scaled = self._chosen.net, self._chosen.version != "0.0"
        n_channels = SLICED_BACKBONES[net].n_channels
        network = PerceptualDistance(sliced_backbone(net), n_channels, scaled=scaled, weighted=self.weighted)
        network.trained = network.heads  # published without the backbone
        network.net.requires_grad_(self.trainable == "all")
        return network

    def _load_backbone(self, network):
        load_sliced_backbone(network.net, self._chosen.net, self.backbone_weights, verbose=self.verbose)
