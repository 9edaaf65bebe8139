# SPDX-License-Identifier: BSD-3-Clause
"""CVRKD-IQA: differences from any good image, distilled from a full-reference teacher (Yin et al., AAAI 2022)."""

import copy
import zlib
from collections import Counter, OrderedDict
from typing import Any, ClassVar

import numpy as np
import torch
from skorch.callbacks import LRScheduler
from torch import nn
from torchvision.transforms.functional import rotate

from sklearn_iqa._base.crops import enlarge
from sklearn_iqa._base.images import read_image
from sklearn_iqa._base.parameters import (
    CROPS,
    POSITIVE,
    PRETRAINED,
    STOPPING,
    TRAINING,
    SequenceOf,
    at_least,
    non_negative,
)
from sklearn_iqa._base.quality import QualityRegressor
from sklearn_iqa._base.rows import check_images, check_tuples
from sklearn_iqa._base.training import Stage
from sklearn_iqa._nn import timm_backbones
from sklearn_iqa._nn.layers import Float32Sequential
from sklearn_iqa._nn.transforms import normalize, places_to_score, random_flip, random_places, squares, to_tensor

N_LEVELS, N_CHANNELS, GRID = 4, 64, 7  # maps of the backbone, the channels and the side that they are reduced to
TEACHER_STEP, STEP = 20, 30  # epochs after which the rate falls to a tenth, the student's again and again
# In the official state and never used: leftovers of another method in the backbone, layers of the regressor.
KEY_MAP = (
    (r"^feature_extractor\.lda|^regressor\.(relu1|bn1)\.", None),
    *((rf"^lda{level + 1}_process\.0\.", f"lda_process.{level}.") for level in range(N_LEVELS)),
)


class Mixing(nn.Module):
    """x + f(norm(x)), where f is two layers with a GELU between them."""

    def __init__(self, embed_dim, first, second):
        super().__init__()
        self.fn = nn.Sequential(first, nn.GELU(), nn.Identity(), second)  # names count an idle dropout too
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, tokens):  # (n, 49, 256)
        return tokens + self.fn(self.norm(tokens))


class Mixer(nn.Module):
    """MLP-Mixer whose tokens are the positions of a map."""

    def __init__(self, n_channels, embed_dim, depth):
        super().__init__()
        tokens = GRID**2
        blocks = [
            nn.Sequential(
                Mixing(embed_dim, nn.Conv1d(tokens, 4 * tokens, 1), nn.Conv1d(4 * tokens, tokens, 1)),
                Mixing(embed_dim, nn.Linear(embed_dim, 4 * embed_dim), nn.Linear(4 * embed_dim, embed_dim)),
            )
            for _ in range(depth)
        ]
        self.mlp = nn.Sequential(nn.Flatten(2), nn.Linear(n_channels, embed_dim), *blocks, nn.LayerNorm(embed_dim))

    def forward(self, maps):
        """Maps (n, c, 7, 7) -> their vector (n, 256), and the output (n, 49, 256) of every block."""
        tokens, outputs = self.mlp[1](self.mlp[0](maps).mT), []
        for block in self.mlp[2:-1]:
            tokens = block(tokens)
            outputs.append(tokens)
        return self.mlp[-1](tokens).mean(1), outputs


class CVRKDIQANetwork(nn.Module):
    """Crops (n, 2, p, 3, s, s) of query and reference, normalised for the frozen backbone -> score (n,)."""

    def __init__(self, backbone, *, n_crops, embed_dim, depth):
        super().__init__()
        n_features = [level["num_chs"] for level in backbone.feature_info][-N_LEVELS:]
        backbone.prune_intermediate_layers(N_LEVELS)
        self.n_crops = n_crops
        self.feature_extractor = backbone.requires_grad_(False)
        self.lda_process = nn.ModuleList(nn.Conv2d(n, N_CHANNELS, 1) for n in n_features)
        n_stacked = N_LEVELS * n_crops * N_CHANNELS
        self.MLP_encoder_diff = Mixer(n_stacked, embed_dim, 2 * depth)
        self.MLP_encoder_lq = Mixer(n_stacked, embed_dim, depth)
        # NOTE[DIFF] code: declares an activation, BatchNorm and dropout between the two, and calls none of them.
        self.regressor = Float32Sequential(
            OrderedDict(l1=nn.Linear(2 * embed_dim, embed_dim), l2=nn.Linear(embed_dim, 1))
        )
        for part in (self.lda_process, self.MLP_encoder_diff, self.MLP_encoder_lq, self.regressor):
            for module in part.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):  # official: not those that mix positions, nn.Conv1d
                    nn.init.kaiming_normal_(module.weight).data.mul_(0.1)
                    nn.init.zeros_(module.bias)

    def train(self, mode=True):
        """Switch the mode of all but the backbone."""
        super().train(mode)
        self.feature_extractor.eval()  # NOTE[DIFF] official: the statistics of the frozen backbone move in training
        return self

    def levels(self, crops):
        """Crops (n, p, 3, s, s) -> four maps of the backbone, each (n * p, c, 7, 7)."""
        crops = crops.flatten(0, 1)
        maps = self.feature_extractor.forward_intermediates(crops, indices=N_LEVELS, intermediates_only=True)
        return [nn.functional.adaptive_avg_pool2d(one, GRID) for one in maps]  # official: after `lda_process`, all one

    def stacked(self, levels):
        """Maps of the backbone -> (n, 4 * p * 64, 7, 7): level by level, in a level crop by crop."""
        maps = (process(level) for process, level in zip(self.lda_process, levels, strict=True))  # (n * p, 64, 7, 7)
        return torch.cat([one.unflatten(0, (-1, self.n_crops)).flatten(1, 2) for one in maps], dim=1)

    def judge(self, query, reference):
        """Stacked maps of query and reference -> score (n,), and the outputs of the difference mixer's blocks."""
        difference, outputs = self.MLP_encoder_diff(reference - query)  # (n, 256)
        return self.regressor(torch.cat([self.MLP_encoder_lq(query)[0], difference], dim=1))[:, 0], outputs

    def encode_reference(self, references):  # (n, p, 3, s, s)
        return self.stacked(self.levels(references))

    def compare(self, queries, encoded):  # (n, p, 3, s, s), (n, 2560, 7, 7)
        return self.judge(self.stacked(self.levels(queries)), encoded)[0]

    def forward(self, pairs):  # (n, 2, p, 3, s, s)
        return self.compare(pairs[:, 0], self.encode_reference(pairs[:, 1]))


class Distillation(nn.Module):
    """The student on references of other content and the frozen teacher on aligned ones; both share a backbone."""

    def __init__(self, student, teacher, blocks):
        super().__init__()
        self.student, self.teacher, self.blocks = student, teacher.requires_grad_(False), blocks

    def forward(self, crops, content):
        """Crops (n, 3, p, 3, s, s) of query, aligned reference, good image; key (n,) of its content -> score, gap (n,).

        A query sees the good image of a row of another key; of its own row where all keys are equal.
        """
        queries, aligned, anywhere = crops.unbind(1)
        levels = self.student.levels(queries)
        others = self.student.encode_reference(anywhere[other_content(content)])
        score, outputs = self.student.judge(self.student.stacked(levels), others)
        with torch.no_grad():
            _, wanted = self.teacher.judge(self.teacher.stacked(levels), self.teacher.encode_reference(aligned))
        return score, sum((outputs[block] - wanted[block]).square().mean((1, 2)) for block in self.blocks)


class TeacherDistillationLoss(nn.Module):
    """Absolute error of the score plus the student's gap to the teacher, means over the batch."""

    def forward(self, output, target):
        score, gap = output  # (n,), (n,)
        return nn.functional.l1_loss(score, target) + gap.mean()


def other_content(content):
    """For each row of a batch a row of other content, at random; the row itself where there is none."""
    others = content[:, None] != content  # (n, n)
    return (others | torch.diag(~others.any(1))).float().multinomial(1)[:, 0]


class _Pool:
    """Good images by their place, opened when they are needed."""

    def __init__(self, images):
        try:
            self.images = check_images(images)
        except (TypeError, ValueError) as error:
            raise type(error)(f"reference_pool cannot be used as images: {error}") from error

    def __len__(self):
        return len(self.images)

    def __getitem__(self, place):
        return read_image(self.images.unopened(place), f"Image {place} of reference_pool")


class _OtherReferences:
    """Pairs of training as the method is used: each query with a good image of other content, always the same.

    Queries of one content take all other originals in turn; with a pool, all queries take its images in turn.
    """

    def __init__(self, rows, pool: _Pool | None):
        self.rows, self.pool, self.number = rows, pool, rows.number
        if pool is not None:
            self.place = [row % len(pool) for row in range(len(rows))]
            return
        contents = [rows.same(row) for row in range(len(rows))]
        order = {content: number for number, content in enumerate(dict.fromkeys(contents))}
        first = [contents.index(content) for content in order]  # rows that stand for the contents
        before, self.place = Counter[Any](), []
        for content in contents:
            ahead = 1 + before[content] % (len(order) - 1)
            self.place.append(first[(order[content] + ahead) % len(order)])
            before[content] += 1

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        place = self.place[row]
        return self.rows[row][0], self.rows[place][1] if self.pool is None else self.pool[place]

    def same(self, row: int):
        """Give a key that rows share when they take one reference."""
        return self.place[row]


class CVRKDIQA(QualityRegressor):
    r"""Quality by comparison with a good image of any content, distilled from a full-reference teacher.

    Features :math:`f` of ten crops of the query, and how those of ten crops of the reference differ from them, pass an
    MLP-Mixer each; two linear layers turn both vectors into the score

    .. math:: q = w^\top\bigl[M(f),\, D(f_r - f)\bigr] + b ,

    unbounded, 1..5 for labels of KADID-10k, **higher is better**. A teacher learns this on originals, crop by crop at
    the same place; the student then sees other references, and learns the labels and the teacher's differences.

    The reference of `predict` is any pristine image: its content and size need not be the query's. `fit` takes each
    query with its own original, of its size, since the teacher needs it; `reference_pool` holds good images for the
    student.

    Parameters
    ----------
    n_crops : int, default=10
        Crops of each image, which the network takes at once: a number other than that of its training does not fit.
    crops : {"grid", "random"}, default="grid"
        Where they are when predicting: spread evenly, or at random as in the official code. Random places depend on the
        pixels and on an integer `random_state` (0 for any other) alone: an image always gets the same.
    crop_size : int, default=224
        Side of the crops in pixels; an image with a shorter side is enlarged to it.
    backbone : str, default="resnet50.tv_in1k"
        Any network of timm with four feature maps; its weights stay as they are.
    embed_dim : int, default=256
        Length of the tokens in the mixers.
    depth : int, default=9
        Blocks of the mixer of the query; that of the difference has twice as many.
    distilled_blocks : tuple of int, default=None
        Blocks of the difference mixer, counted from 0, whose outputs the student learns from the teacher. None takes
        all; the official training takes ``tuple(range(11))``.
    teacher_epochs : int, default=100
        Passes over the training data in which the teacher learns, before those of the student.
    teacher_lr : float, default=2e-4
        Learning rate of the teacher; it falls to a tenth after 20 epochs.
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
    max_epochs : int, default=100
        Passes over the training data.
    lr : float, default=2e-5
        Learning rate.
    weight_decay : float, default=5e-4
        Weight decay of Adam (L2, added to the gradient).
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
        The student: crops (n, 2, n_crops, 3, crop_size, crop_size), normalised for the backbone -> score (n,).
    teacher_ : dict of str to ndarray
        State of the teacher without the backbone, which is the student's; after `fit` only.
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
        Spearman correlation on the held-out part after each epoch; with `early_stopping` only.
    device_ : torch.device
        Where the network runs.

    Notes
    -----
    Published weights: none by name. The authors' `NAR_student_cross_dataset.pth` (KADID-10k; MIT; Google Drive) loads
    by path; so does `FR_teacher_cross_dataset.pth`, which needs originals. They average ten draws of random crops.

    In training the student sees each query beside an image of `reference_pool`, drawn at random as the paper draws one
    of DIV2K; its crops are cut anywhere, mirrored and turned at random, with black corners. Without a pool it is the
    original of another row of the batch, drawn among those of other content; in a batch of one content the own one.
    `early_stopping` scores held-out queries with images of the pool, or with originals of other content, too.

    References
    ----------
    .. [1] G. Yin, W. Wang, Z. Yuan, C. Han, W. Ji, S. Sun, C. Wang, "Content-Variant Reference Image Quality Assessment
       via Knowledge Distillation", AAAI 2022. https://github.com/guanghaoyin/CVRKD-IQA

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_iqa import CVRKDIQA, make_pairs
    >>> queries = np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), dtype=np.uint8)
    >>> cvrkd = CVRKDIQA(backbone="test_resnet", crop_size=32, backbone_weights=None, random_state=0).initialize()
    >>> cvrkd.predict(make_pairs(queries, np.full((40, 50, 3), 128, dtype=np.uint8))).shape
    (3,)
    """

    inputs = ("query", "reference")
    same_size = False
    label_range = (1.0, 5.0)  # of KADID-10k
    key_map = KEY_MAP
    _pool: _Pool | None = None  # of the call of fit that runs

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **TRAINING,
        **STOPPING,
        **PRETRAINED,
        **CROPS,
        "crop_size": [at_least(1)],
        "backbone": [str],
        "embed_dim": [at_least(1)],
        "depth": [at_least(1)],
        "distilled_blocks": [SequenceOf(at_least(0)), None],
        "teacher_epochs": [at_least(1)],
        "teacher_lr": [POSITIVE],
        "weight_decay": [non_negative()],
    }
    _test_params: ClassVar[dict[str, Any]] = {
        "n_crops": 1,
        "crop_size": 32,
        "backbone": "test_resnet",
        "embed_dim": 16,
        "depth": 1,
        "teacher_epochs": 1,
        "backbone_weights": None,
        "batch_size": 4,
        "max_epochs": 1,
        "lr": 0.001,
    }

    def __init__(
        self,
        *,
        n_crops=10,
        crops="grid",
        crop_size=224,
        backbone="resnet50.tv_in1k",
        embed_dim=256,
        depth=9,
        distilled_blocks=None,
        teacher_epochs=100,
        teacher_lr=2e-4,
        weights=None,
        backbone_weights="imagenet",
        batch_size=32,
        max_epochs=100,
        lr=2e-5,
        weight_decay=5e-4,
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
        self.n_crops = n_crops
        self.crops = crops
        self.crop_size = crop_size
        self.backbone = backbone
        self.embed_dim = embed_dim
        self.depth = depth
        self.distilled_blocks = distilled_blocks
        self.teacher_epochs = teacher_epochs
        self.teacher_lr = teacher_lr
        self.weights = weights
        self.backbone_weights = backbone_weights
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.lr = lr
        self.weight_decay = weight_decay
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

    def fit(self, X, y, sample_weight=None, *, reference_pool=None):
        """Train teacher and student on queries with their originals, and their quality.

        Parameters
        ----------
        X : container of n pairs (query, original)
            See the user guide, "What X and y are".
        y : array-like of shape (n,)
            Quality of each query, higher is better, in any unit; `predict` then speaks this unit.
        sample_weight : array-like of shape (n,), default=None
            How often a row is drawn for training, relative to the others; None draws each once per epoch.
        reference_pool : container of images, default=None
            Good images of any content and size, best paths: one is drawn at random for each query and step of the
            student. The paper takes the 800 of DIV2K. None takes the originals of other rows of the batch.

        Returns
        -------
        self : estimator
            The fitted estimator.

        Raises
        ------
        ValueError, TypeError
            When X, y, reference_pool or a parameter cannot be used; the sentence says which, and what to do.
        """
        return self._fit(X, y, sample_weight, reference_pool=reference_pool)

    def partial_fit(self, X, y, sample_weight=None, *, reference_pool=None):
        """Train the student for one epoch, going on from where the estimator stands.

        The first call builds the network, trains the teacher and learns the unit of y; later calls keep all three.

        Parameters
        ----------
        X, y, sample_weight, reference_pool
            As in `fit`.

        Returns
        -------
        self : estimator
            The fitted estimator.
        """
        return self._partial_fit(X, y, sample_weight, reference_pool=reference_pool)

    def _network(self):
        backbone = timm_backbones.build_backbone(self.backbone, num_classes=0)
        if len(getattr(backbone, "feature_info", ())) < N_LEVELS:
            raise ValueError(f"backbone={self.backbone!r} has no {N_LEVELS} feature maps; take one such as 'resnet18'.")
        return CVRKDIQANetwork(backbone, n_crops=self.n_crops, embed_dim=self.embed_dim, depth=self.depth)

    def _load_backbone(self, network):
        timm_backbones.load_backbone(network.feature_extractor, self.backbone, self.backbone_weights)

    def _learn(self, X, y, sample_weight, labels, **kwargs):
        try:
            return super()._learn(X, y, sample_weight, labels, **kwargs)
        finally:
            self._pool = None  # no estimator travels with the images that it was given

    def _training_rows(self, X):
        return check_tuples(X, self.inputs, "fit of CVRKDIQA", same_size=True)  # the teacher compares place by place

    def _check_targets(self, rows, y, reference_pool=None):
        self._pool = None if reference_pool is None else _Pool(reference_pool)
        return super()._check_targets(rows, y)

    def _held_out_score(self, rows, targets, held_out, sample_weight):
        return super()._held_out_score(_OtherReferences(rows, self._pool), targets, held_out, sample_weight)

    def _stages_before(self, rows, targets, sample_weight):
        teacher, targets = self._teacher(), self._encode_targets(targets)
        params = self._recipe(lambda epoch: 1.0 if epoch < TEACHER_STEP else 0.1)
        settings = (rows, targets, self._teacher_view, self.teacher_lr, params, sample_weight)
        yield Stage("teacher", teacher, nn.L1Loss(), self.teacher_epochs, *settings)
        own = (pair for pair in teacher.named_parameters() if pair[1].requires_grad)
        self.teacher_ = {name: tensor.numpy(force=True).copy() for name, tensor in own}

    def _training_module(self, network):
        teacher, learned = self._teacher(), {name: torch.tensor(array) for name, array in self.teacher_.items()}
        teacher.load_state_dict(learned, strict=False)  # all but the backbone
        every = range(2 * self.depth)
        return Distillation(network, teacher, every if self.distilled_blocks is None else self.distilled_blocks)

    def _teacher(self):
        backbone = self.network_.feature_extractor  # one for both
        return copy.deepcopy(self.network_, {id(backbone): backbone})

    def _loss(self):
        return TeacherDistillationLoss()

    def _net_params(self):
        n_before = self.n_iter_  # not 0 behind a pickle
        return self._recipe(lambda epoch: 0.1 ** ((n_before + epoch) // STEP))

    def _recipe(self, factor):
        schedule = LRScheduler("LambdaLR", lr_lambda=factor)
        return {"optimizer__weight_decay": self.weight_decay, "callbacks": [("schedule", schedule)]}

    def _teacher_view(self, x, _):
        crops = self._random_crops(x, self._pixels)  # (p, 2, 3, s, s)
        # A half turn after that, as in the official code, would leave the four outcomes equally likely.
        return torch.stack([random_flip(random_flip(crop, axis=-2)) for crop in crops], dim=1)  # (2, p, 3, s, s)

    def _train_view(self, x):
        _, original = x
        crops = self._random_crops(x, self._pixels)  # (p, 2, 3, s, s)
        drawn = None if self._pool is None else self._pool[int(torch.randint(len(self._pool), ()))]
        good = self._turned_crops(original if drawn is None else drawn)
        # What was drawn for a row stays with it: all have one key.
        content = zlib.crc32(np.ascontiguousarray(original)) if drawn is None else 0
        return {"crops": torch.cat([crops.movedim(1, 0), good[None]]), "content": content}  # (3, p, 3, s, s)

    def _views(self, x):
        return torch.stack([self._crops(image) for image in x])[None]  # (1, 2, p, 3, s, s)

    def _crops(self, image):
        kind = {"crops": self.crops, "random_state": self.random_state}
        enlarged = enlarge(image, self.crop_size)
        places = places_to_score(enlarged, self.crop_size, self.n_crops, content=image, **kind)
        return squares(enlarged, places, self.crop_size, self._pixels)

    def _random_crops(self, images, convert):  # (p, ..., 3, s, s)
        images = enlarge(images, self.crop_size)
        return squares(images, random_places(images, self.crop_size, self.n_crops), self.crop_size, convert)

    def _turned_crops(self, image):
        """Crops (p, 3, s, s) of a good image, cut anywhere, mirrored and turned by any angle."""
        crops = self._random_crops(image, to_tensor)
        crops = [random_flip(random_flip(crop, axis=-2)) for crop in crops]
        # Turned before they are normalised, so that corners become black as in the official code, not mid grey.
        return self._normalized(torch.stack([rotate(crop, 360 * float(torch.rand(()))) for crop in crops]))

    def _pixels(self, images):
        return self._normalized(to_tensor(images))

    def _normalized(self, pixels):
        config = timm_backbones.input_config(self.backbone)
        return normalize(pixels, config["mean"], config["std"])

    def _check_combinations(self):
        blocks, n_blocks = [0] if self.distilled_blocks is None else list(self.distilled_blocks), 2 * self.depth
        config = timm_backbones.input_config(self.backbone)
        if blocks != sorted({*blocks} & {*range(n_blocks)}):
            raise ValueError(f"distilled_blocks={blocks} must ascend within 0..{n_blocks - 1}, the last of 2 * depth.")
        if config["fixed_input_size"] and self.crop_size != config["input_size"][1]:
            raise ValueError(f"backbone={self.backbone!r} needs crop_size={config['input_size'][1]}.")
