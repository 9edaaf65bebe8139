# SPDX-License-Identifier: BSD-3-Clause
"""CLIP-IQA: which of two opposite prompts fits an image better (Wang et al., AAAI 2023)."""

import math
import os
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from skorch.callbacks import Callback
from torch import nn
from tqdm.auto import tqdm

from sklearn_iqa._base.failures import RAISE, check_ready
from sklearn_iqa._base.inference import infer, prepared
from sklearn_iqa._base.parameters import PRETRAINED, STOPPING, TRAINING, SequenceOf, at_least, one_of
from sklearn_iqa._base.quality import QualityRegressor, check_quality
from sklearn_iqa._base.rows import image_name
from sklearn_iqa._base.training import Subset
from sklearn_iqa._nn.clip_backbones import load_clip, pools_class_token, tokenize
from sklearn_iqa._nn.clip_text import CLIP_KEY_MAP, CLIP_MEAN, CLIP_STD, PromptNetwork, token_table
from sklearn_iqa._nn.transforms import normalize, random_flip, to_tensor
from sklearn_iqa._weights.pretrained import PYIQA_LICENCE, PYIQA_SOURCE, PublishedWeights, WeightsFile, pyiqa_file

N_STEPS, LOWEST_LR = 500_000, 1e-7  # length and end of the official schedule, whose 80 000th step was published
# Official files hold the CLIP three times, and rows of its token embedding.
COPIES = r"^step_counter$|(^|\.)(image_encoder|text_encoder)\.|\.token_(prefix|suffix)$"
KEY_MAP = (
    (COPIES, None),
    (r"^generator\.", ""),
    (r"^(?:clipmodel_(\d+)\.)prompt_learner\.ctx$", r"contexts.\1"),
    (r"^clipmodel_0\.", ""),
    (r"^clipmodel_\d+\.(?!prompt)", None),  # the CLIP once more for each pair
    (r"^prompt_learner\.ctx$|^$", "contexts.0"),
    (r"^prompt_learner\.", ""),
    *CLIP_KEY_MAP,
)
SOURCE = "https://github.com/IceClear/CLIP-IQA"
LICENCE = "NTU S-Lab 1.0, non-commercial (copy: CC BY-NC-SA 4.0)"
VECTORS = pyiqa_file("CLIP-IQA+_learned_prompts-603f3273.pth")  # those of the next file alone
WHOLE = WeightsFile("iter_80000.pth", None, urls=(f"{SOURCE}/releases/download/Pretrained/iter_80000.pth",))
RN50_512 = pyiqa_file("CLIPIQA+_RN50_512-89f5d940.pth")
VIT_512 = pyiqa_file("CLIPIQA+_ViTL14_512-e66488f2.pth")
RN50 = {"backbone": "RN50-quickgelu", "n_context": 16, "shared_context": True, "pos_embedding": False}
OWN_CONTEXT = {"shared_context": False, "pos_embedding": True}
PUBLISHED = (
    PublishedWeights("plus-koniq10k", (VECTORS,), SOURCE, LICENCE, "KonIQ-10k", RN50),
    PublishedWeights("plus-koniq10k-whole", (WHOLE,), SOURCE, LICENCE, "KonIQ-10k", RN50),
    PublishedWeights("plus-rn50-512", (RN50_512,), PYIQA_SOURCE, PYIQA_LICENCE, "KonIQ-10k", {**RN50, **OWN_CONTEXT}),
    PublishedWeights(
        *("plus-vitl14-512", (VIT_512,), PYIQA_SOURCE, PYIQA_LICENCE, "KonIQ-10k"),
        {**RN50, **OWN_CONTEXT, "backbone": "ViT-L-14-quickgelu"},
    ),
)


class CLIPIQANetwork(PromptNetwork):
    """A frozen CLIP whose image tower takes images of any size, and context vectors learned in its prompts."""

    trained = ("contexts",)

    def __init__(
        self,
        backbone: str,
        prompts: Sequence[tuple[str, str]],
        n_context: int,
        shared_context: bool,
        pos_embedding: bool,
    ):
        super().__init__(backbone)
        self.convolutional = hasattr(self.clip.visual, "attnpool")
        if not (self.convolutional or pools_class_token(self.clip.visual)):
            raise ValueError(
                f"backbone={str(backbone)!r} has another image tower than OpenAI's CLIPs; give a model such as "
                "RN50-quickgelu or ViT-L-14-quickgelu."
            )
        self.clip.requires_grad_(False)
        self.pos_embedding = pos_embedding
        shape = (n_context, self.clip.token_embedding.embedding_dim)
        self.contexts = nn.ParameterList(
            nn.Parameter(torch.empty(shape if shared_context else (2, *shape)).normal_(std=0.02))
            for _ in (prompts if n_context else ())
        )
        texts = [prompt for pair in prompts for prompt in pair]
        rows, places = zip(*(_with_places(prompt, n_context) for prompt in texts), strict=True)
        self.register_buffer("tokens", token_table(rows, texts, self.clip.context_length), persistent=False)
        self.register_buffer("ends", torch.tensor([len(row) - 1 for row in rows]), persistent=False)
        self.register_buffer("places", torch.tensor(places, dtype=torch.long), persistent=False)

    def train(self, mode: bool = True):
        """Keep CLIP in inference mode: its BatchNorm statistics never move."""
        super().train(mode)
        self.clip.eval()
        return self

    def embed_prompts(self):
        """Embedded tokens (2 k, length, width), the learned vectors among them, and the end of each prompt."""
        embedded = self.clip.token_embedding(self.tokens)
        if len(self.contexts):
            learned = torch.cat([context.expand(2, -1, -1) for context in self.contexts])  # (2 k, n_context, width)
            rows = torch.arange(len(embedded), device=embedded.device)[:, None]
            embedded = embedded.index_put((rows, self.places), learned)
        return embedded, self.ends

    def maps(self, images):
        """(n, 3, height, width) -> maps (n, c, height / s, width / s), s = 32 or the side of a ViT's patches."""
        visual = self.clip.visual
        if not self.convolutional:
            return visual.conv1(images)
        features = visual.stem(images)  # (n, 64, height / 4, width / 4) for a ResNet-50
        for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
            features = layer(features)
        return features

    def pool(self, maps):
        """Maps (n, c, h, w) -> features (n, d) of any length, by attention among all positions and one more."""
        visual = self.clip.visual
        # As many positions as images of the size have that CLIP was trained on: (1 + 7 * 7, c) for a ResNet-50.
        table = (visual.attnpool if self.convolutional else visual).positional_embedding
        if self.pos_embedding:
            # As in the official code the whole table is one image, although its first row belongs to no position.
            size = (1 + maps.shape[2] * maps.shape[3], table.shape[1])
            table = F.interpolate(table[None, None], size, mode="bicubic")[0, 0]
        else:
            table = torch.zeros_like(table[:1])  # broadcast over positions, so that there may be any number
        if self.convolutional:
            return attend(visual.attnpool, maps, table)
        tokens = torch.cat([visual.class_embedding.expand(len(maps), 1, -1), maps.flatten(2).mT], dim=1)
        tokens = visual.transformer(visual.ln_pre(tokens + table))
        return visual.ln_post(tokens[:, 0]) @ visual.proj

    def judge(self, image_features):
        """Features (n, d) of images -> probability (n, k) that the first prompt of each pair fits."""
        return self.logits(image_features).unflatten(1, (-1, 2)).softmax(-1)[..., 0]

    def forward(self, images):
        """(n, 3, height, width), normalised as CLIP's -> probabilities (n, k), one for each pair of prompts."""
        return self.judge(self.pool(self.maps(images)))


def attend(pool: Any, maps: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """What an attention pool of CLIP would give with another table of positions: maps (n, c, h, w) -> (n, d).

    The pool itself stays as it is, so that several threads may use it. Source: `AttentionPool2d` of open_clip.
    """
    positions = maps.flatten(2).permute(2, 0, 1)  # (h w, n, c)
    tokens = torch.cat([positions.mean(0, keepdim=True), positions]) + table[:, None].to(maps.dtype)
    attended, _ = F.multi_head_attention_forward(
        *(tokens, tokens, tokens, tokens.shape[-1], pool.num_heads),
        in_proj_weight=None,
        in_proj_bias=torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]),
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=pool.c_proj.weight,
        out_proj_bias=pool.c_proj.bias,
        training=False,
        need_weights=False,
        use_separate_proj_weight=True,
        q_proj_weight=pool.q_proj.weight,
        k_proj_weight=pool.k_proj.weight,
        v_proj_weight=pool.v_proj.weight,
    )
    return attended[0]


def _with_places(prompt: str, n_context: int) -> tuple[list[int], list[int]]:
    """Tokens of a prompt, and the places of learned vectors among them: half before the words, half behind them."""
    n_words, half = len(tokenize(prompt)) - 2, n_context // 2
    places = [*range(1, 1 + half), *range(1 + half + n_words, 1 + n_words + n_context)]
    tokens = tokenize(f"{prompt}." if n_context else prompt)  # official: "Good photo..", two full stops
    for place in places:
        tokens.insert(place, 0)
    return tokens, places


class ImageTower(nn.Module):
    """The part of the network that is frozen: normalised images (n, 3, height, width) -> features (n, d)."""

    def __init__(self, network: CLIPIQANetwork):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network.pool(self.network.maps(images))


class PromptTraining(nn.Module):
    """The network behind the image tower, with the features of all rows, which are the same in every epoch."""

    def __init__(self, network: CLIPIQANetwork):
        super().__init__()
        self.network = network
        self.names: list[str] = []  # of the images of the rows
        self.table = torch.empty(0, 2, 0)  # features of each image and of its mirror image, (n_rows, 2, d)

    def forward(self, places):
        """Places (n,), two for each row of the table -> probabilities (n, k)."""
        return self.network.judge(self.table.flatten(0, 1)[places])


class CosineFall(Callback):
    """Learning rate of batch t, counted over all calls of fit: half a cosine over `N_STEPS`."""

    def __init__(self, n_before: int):
        self.n_before = n_before

    def on_batch_begin(self, net, **kwargs):
        """Set the rate; the history has a place for this batch already."""
        t = self.n_before + sum(len(batches) for batches in net.history[:, "batches"]) - 1
        for group in net.optimizer_.param_groups:
            group["lr"] = LOWEST_LR + (net.lr - LOWEST_LR) * (1 + math.cos(math.pi * min(t / N_STEPS, 1))) / 2


class CLIPIQA(QualityRegressor):
    r"""CLIP-IQA and CLIP-IQA+: quality from two opposite prompts, as given or with learned context vectors.

    CLIP gives the image a vector :math:`x` and the prompts "Good photo." and "Bad photo." the vectors :math:`t_1` and
    :math:`t_2`. The score is the softmax probability of the first,

    .. math:: \frac{e^{s_1}}{e^{s_1} + e^{s_2}}, \qquad s_i = 100 \cos(x, t_i),

    with the factor that CLIP has learned in place of 100: a probability in [0, 1], **higher is better**. Other pairs
    ask for other attributes: bright or dark, sharp or blurry, happy or sad. CLIP itself is frozen. Without learned
    vectors (CLIP-IQA) nothing is trained; with `n_context=16` (CLIP-IQA+) `fit` learns 16 context vectors, which are
    placed among the tokens of both prompts.

    Parameters
    ----------
    prompts : sequence of (str, str), default=(("Good photo.", "Bad photo."),)
        Pairs of opposite prompts, the better one first.
    attribute : int or "mean", default=0
        Index of the pair that `predict` scores, or the mean over all; `predict_attributes` scores each.
    n_context : int, default=0
        Context vectors in each prompt that `fit` learns; 0 keeps the prompts as given, 16 is CLIP-IQA+.
    shared_context : bool, default=True
        Whether the two prompts of a pair share their context vectors, as in the paper; False learns vectors for each.
    backbone : str or path, default="RN50-quickgelu"
        A CLIP of OpenAI's architectures, convolutional or ViT: a name of `open_clip.list_models()`, or a `*.json` file
        in its form.
    pos_embedding : bool, default=False
        Whether the image tower adds its positional embedding, interpolated to the image's size. The paper does not; a
        ViT needs it.
    weights : str or path, default=None
        Trained weights of the network: a file (`.pth`, `.pt`, `.safetensors`, `.npz`), or, where the Notes tell of
        published weights, one of their names or "default" for the first. `predict` then works without `fit`, and `fit`
        goes on from there. None trains anew, from `backbone_weights` where there are any.
    backbone_weights : str, path or None, default="openai"
        Pretraining of the backbone when `weights` does not hold it: a tag of open_clip for this model, fetched when the
        network is built, or a file; None starts from random numbers.
    batch_size : int, default=128
        Rows in one step of training.
    max_epochs : int, default=1450
        Passes over the training data.
    lr : float, default=0.002
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
        The network: images (n, 3, height, width), normalised as CLIP's -> probabilities (n, k), one for each pair.
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
    With `n_context=0` only the unit of y is learned: the least-squares line from the probability to y, whose slope is
    negative when the pair is the wrong way round. That makes `prompts` a parameter for a grid search.

    With learned vectors and several pairs, y has one column for each, all in one unit; each pair has vectors of its
    own. CLIP's features of an image and of its mirror image are computed before the first epoch: 4 kB each. The
    default epochs are the 80 000 batches of the authors on KonIQ-10k; small sets ask for a higher `lr` and fewer.

    Published weights: "plus-koniq10k" (the default) are the 16 vectors of CLIP-IQA+ alone; CLIP then comes from
    `backbone_weights`. "plus-koniq10k-whole" is the authors' file `iter_80000.pth`, which holds the same vectors and
    CLIP. "plus-rn50-512" and "plus-vitl14-512" are vectors that IQA-PyTorch trained, for each prompt its own. They all
    set `n_context` and what else belongs to them. IQA-PyTorch's "clipiqa" has no vectors; it is a mean of five pairs.

    What differs from the official code: it scales KonIQ's MOS by 1/100, where the lowest and highest label become 0 and
    1 here; with several pairs it learns a network from all probabilities to one quality.

    References
    ----------
    .. [1] J. Wang, K. C. K. Chan, C. C. Loy, "Exploring CLIP for Assessing the Look and Feel of Images", AAAI 2023.
       https://github.com/IceClear/CLIP-IQA

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_iqa import CLIPIQA
    >>> images = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), dtype=np.uint8)
    >>> pairs = [("Good photo.", "Bad photo."), ("Bright photo.", "Dark photo.")]
    >>> clip_iqa = CLIPIQA(prompts=pairs, backbone_weights=None, random_state=0).initialize()  # of random numbers
    >>> {name: probabilities.shape for name, probabilities in clip_iqa.predict_attributes(images).items()}
    {'Good photo. / Bad photo.': (2,), 'Bright photo. / Dark photo.': (2,)}
    """

    min_size = 32
    optimizer = torch.optim.SGD
    score_range = label_range = (0.0, 1.0)
    label_columns = True
    key_map = KEY_MAP
    published = PUBLISHED

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **TRAINING,
        **STOPPING,
        **PRETRAINED,
        "prompts": [SequenceOf(SequenceOf(str, min_length=2, max_length=2))],
        "attribute": [at_least(0), one_of("mean")],
        "n_context": [at_least(0)],
        "shared_context": ["boolean"],
        "backbone": [str, os.PathLike],
        "pos_embedding": ["boolean"],
    }
    _test_params: ClassVar[dict[str, Any]] = {
        "n_context": 2,
        "backbone": "clip_tiny_resnet.json",
        "backbone_weights": None,
        "batch_size": 4,
        "max_epochs": 1,
        "lr": 1.0,
    }

    def __init__(
        self,
        *,
        prompts=(("Good photo.", "Bad photo."),),
        attribute=0,
        n_context=0,
        shared_context=True,
        backbone="RN50-quickgelu",
        pos_embedding=False,
        weights=None,
        backbone_weights="openai",
        batch_size=128,
        max_epochs=1450,
        lr=0.002,
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
        self.prompts = prompts
        self.attribute = attribute
        self.n_context = n_context
        self.shared_context = shared_context
        self.backbone = backbone
        self.pos_embedding = pos_embedding
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

    def predict_attributes(self, X):
        """How well the first prompt of each pair fits, for each image of X.

        Parameters
        ----------
        X : container of n images
            See the user guide, "What X and y are".

        Returns
        -------
        attributes : dict of str to ndarray of shape (n,), float64
            Probabilities in [0, 1], by the two prompts with " / " between them, in the order of `prompts`.

        Raises
        ------
        NotFittedError, ValueError, TypeError, FileNotFoundError
            When nothing was fitted or loaded, or a row of X cannot be used; the message says what to do.
        """
        check_ready(self)
        outputs = dict(self._infer_all(self._rows(X)))
        probabilities = np.stack([outputs[row][0].double().numpy() for row in range(len(outputs))], axis=1)
        return {" / ".join(pair): column for pair, column in zip(self.prompts, probabilities, strict=True)}

    def _network(self):
        names = ("backbone", "prompts", "n_context", "shared_context", "pos_embedding")
        return CLIPIQANetwork(*(getattr(self._chosen, name) for name in names))

    def _load_backbone(self, network):
        load_clip(network.clip, self._chosen.backbone, self.backbone_weights)

    def _training_module(self, network):
        return PromptTraining(network)

    def _loss(self):
        return nn.MSELoss()

    def _net_params(self) -> dict[str, Any]:
        return {"callbacks": [("schedule", CosineFall(self.n_steps_))]}

    def _views(self, image):
        return normalize(to_tensor(image), CLIP_MEAN, CLIP_STD)[None]

    def _row_view(self, rows, members):
        self._fill_table(rows, members)
        return self._train_view

    def _train_view(self, row):
        """The row's place in the table of features, or that of its mirror image."""
        return random_flip(torch.tensor([2 * row, 2 * row + 1]))[0]

    def _fill_table(self, rows, members):
        """Compute the features of all images, and of the mirror images of those that are trained on.

        What an earlier call computed of the same images stays.
        """
        module, images = self.net_.module_, rows
        while isinstance(images, Subset):
            images = images.rows
        numbers = [rows.number(row) for row in range(len(rows))]
        names = [image_name(images.unopened(number), f"Row {number} of X")[0] for number in numbers]
        trained = {names[row] for row in members}
        known = dict(zip(module.names, module.table.cpu(), strict=True))

        def is_known(name):
            return name in known and not (name in trained and known[name][1].isnan().any())

        def job(row):  # in threads
            one = self._job(rows, row)
            return one._replace(views=torch.cat([one.views, one.views.flip(-1)])) if names[row] in trained else one

        missing = {name: row for row, name in enumerate(names) if not is_known(name)}.values()
        jobs = prepared(job, missing, self._n_threads, RAISE)
        found = infer(ImageTower(module.network), jobs, device=self.device_, precision=self.precision)
        name = f"{type(self).__name__}, features"
        for row, features in tqdm(found, total=len(missing), disable=not self.verbose, desc=name, unit="image"):
            known[names[row]] = torch.cat([features, torch.full_like(features, torch.nan)])[:2]
        module.names, module.table = names, torch.stack([known[name] for name in names]).to(self.device_)

    def _score(self, output):
        return self._of_attribute(output.double()).item()

    def _of_attribute(self, probabilities):
        """Numbers (n, k), one for each pair -> those of the chosen one, or their mean, (n,)."""
        return probabilities.mean(1) if self.attribute == "mean" else probabilities[:, self.attribute]

    def _scores(self, rows):
        if not self._chosen.n_context:
            return super()._scores(rows)
        places = 2 * torch.as_tensor(rows.members, device=self.device_)  # of rows held out in training
        with torch.no_grad():
            probabilities = self.net_.module_(places)
        return self._of_attribute(probabilities.double()).numpy(force=True)

    def _check_combinations(self):
        pairs = [tuple(pair) for pair in self.prompts]
        if len(set(pairs)) < len(pairs) or not all(all(pair) for pair in pairs):
            raise ValueError(
                f"prompts={self.prompts!r} holds an empty prompt, or a pair twice; give different pairs of opposite "
                "prompts, such as [('Good photo.', 'Bad photo.')]."
            )
        if self.attribute != "mean" and self.attribute >= len(pairs):
            raise ValueError(
                f"attribute={self.attribute} counts pairs from 0, but prompts has {len(pairs)}; give at most "
                f"{len(pairs) - 1}."
            )

    def _check_targets(self, rows, y):
        columns = np.asarray(y)
        if columns.ndim == 2 and columns.shape[1] == len(self.prompts) > 1:
            return np.stack([check_quality(rows, column, type(self).__name__) for column in columns.T], axis=1)
        if self._chosen.n_context and len(self.prompts) > 1:
            raise ValueError(
                f"y has the shape {columns.shape}, but vectors are learned for {len(self.prompts)} pairs of prompts; "
                "give one column of y for each, or one pair."
            )
        return check_quality(rows, y, type(self).__name__)

    def _quality(self, targets):
        return self._of_attribute(targets) if targets.ndim == 2 else targets

    def _start(self, targets, sample_weight):
        super()._start(targets.ravel(), None)

    def _encode_targets(self, targets):
        return super()._encode_targets(targets).reshape(len(targets), -1)

    def _train(self, rows, targets, *args):
        if self._chosen.n_context:
            super()._train(rows, targets, *args)
        else:
            self.n_iter_, self.loss_curve_ = 0, []

    def _finish(self, rows, targets, sample_weight):
        if not self._chosen.n_context:
            self._calibrate(rows, targets, sample_weight)
