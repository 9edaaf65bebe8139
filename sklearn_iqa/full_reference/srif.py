# SPDX-License-Identifier: BSD-3-Clause
"""SRIF: structure and texture of super-resolved images, weighed without a network (Zhou and Wang, ACM MM 2022)."""

import os
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.optimize import least_squares
from scipy.special import expit
from sklearn.base import TransformerMixin
from torch import nn
from tqdm.auto import tqdm

from sklearn_iqa._base.ahead import n_threads
from sklearn_iqa._base.devices import resolve_device
from sklearn_iqa._base.failures import RAISE, Failures
from sklearn_iqa._base.inference import prepared
from sklearn_iqa._base.parameters import POSITIVE, RUNNING, one_of
from sklearn_iqa._base.quality import QualityRegressor
from sklearn_iqa._weights import state_dicts
from sklearn_iqa.full_reference._srif_pyramids import FEATURE_NAMES, fidelity_features, gray

N_MEASURES = 6  # the first features: three of structure, three of texture
CONTENT = slice(6, 10)  # ratios of sharpness and of entropy, which the published tables hold beside the measures
CURVE_START = (10.0, 0.0, 0.0, 0.1, 0.1)  # for measures and labels of mean 0 and deviation 1
CURVE_TOLERANCE, CURVE_EVALUATIONS = 1e-6, 500  # where measures predict little, valleys are flat and long


def curve(x, b):
    """Logistic step on a line, `b[..., 0] * (1/2 - 1 / (1 + exp(b1 (x - b2)))) + b3 * x + b4`, for tensors."""
    b0, b1, b2, b3, b4 = b.unbind(-1)
    return b0 * (torch.sigmoid(b1 * (x - b2)) - 0.5) + b3 * x + b4


def combine(fidelities, weights, biases):
    """Fidelities, weights and biases, each (n, 2), structure first -> score (n,)."""
    return (weights * (fidelities + biases)).sum(-1)


class SRIFNetwork(nn.Module):
    """Features (n, 18) of pairs, float64 -> score (n,), by curves and weighted sums that `fit` computes.

    Before that the structural measures count up, those of texture down, all alike.

    Parameters
    ----------
    weighting : {"uncertainty", "equal", "df"}
        What structure counts against texture.
    bandwidth : float
        Width of the kernel on the content measures, in their standard deviations.
    """

    prior: torch.Tensor

    def __init__(self, weighting: str, bandwidth: float):
        super().__init__()
        self.weighting, self.bandwidth = weighting, bandwidth
        line, anything = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0]), torch.tensor([-torch.inf, torch.inf])
        for name, n_curves in (("measure", N_MEASURES), ("fidelity", 2)):
            self.register_buffer(f"{name}_curves", line.double().repeat(n_curves, 1))
            self.register_buffer(f"{name}_ranges", anything.double().repeat(n_curves, 1))
        self.register_buffer("coefficients", torch.tensor([[1.0], [-1.0]]).double().repeat(1, 3) / 3)
        # Weighted first and second moments of the errors of structure and texture: 1, d, s, d d, s s, d s. The prior
        # counts as one further row; before `fit` both are equally uncertain and err independently.
        self.register_buffer("prior", torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 0.0]).double())
        self.register_buffer("content_scale", torch.ones(4).double())
        self.make_room(0)

    def make_room(self, n_rows: int) -> None:
        """Replace the training rows by `n_rows` empty ones."""
        self.register_buffer("content", self.prior.new_zeros(n_rows, 4))
        self.register_buffer("moments", self.prior.new_zeros(n_rows, 6))

    def forward(self, features):
        """Score of each row."""
        fidelities = self.fidelities(features)
        if self.weighting == "df":
            return fidelities[:, 0]
        if self.weighting == "equal":
            return fidelities.mean(1)
        return combine(fidelities, *self.weights_and_biases(features))

    def fidelities(self, features):
        """Features (n, 18) -> structural and textural fidelity (n, 2), both in the unit of the labels."""
        # Curves with five free parameters do not extrapolate: measures are clamped to the range that `fit` saw.
        measures = features[:, :N_MEASURES].clamp(*self.measure_ranges.T)
        mapped = curve(measures, self.measure_curves).unflatten(1, (2, 3))  # (n, 2, 3)
        sums = (mapped * self.coefficients).sum(2)
        return curve(sums.clamp(*self.fidelity_ranges.T), self.fidelity_curves)

    def weights_and_biases(self, features):
        """Features (n, 18) -> weights, which sum to 1, and biases (n, 2) of both fidelities, by kernel regression."""
        apart = (features[:, None, CONTENT] / self.content_scale - self.content).square().sum(2)  # (n, rows)
        sums = (-apart / (2 * self.bandwidth**2)).exp() @ self.moments + self.prior  # (n, 6)
        first, second = sums[:, 1:3] / sums[:, :1], sums[:, 3:] / sums[:, :1]
        variance = second[:, :2] - first**2
        covariance = second[:, 2] - first[:, 0] * first[:, 1]
        of_difference = variance.sum(1) - 2 * covariance
        known = of_difference > 1e-12 * variance.sum(1)  # otherwise both are equal, and any weights give the same
        weight = (variance[:, 1] - covariance) / torch.where(known, of_difference, 1)
        weight = torch.where(known, weight, 0.5)
        return torch.stack([weight, 1 - weight], 1), -first

    def _load_from_state_dict(self, state_dict, prefix, *args):
        if f"{prefix}content" in state_dict:
            self.make_room(len(state_dict[f"{prefix}content"]))
        super()._load_from_state_dict(state_dict, prefix, *args)


def fit_curve(x: np.ndarray, quality: np.ndarray, weight: np.ndarray) -> torch.Tensor:
    """Least-squares parameters (5,) of `curve` from x (n,) to quality (n,), from the official start."""
    x_mean, x_scale, mean, scale = x.mean(), x.std() or 1.0, quality.mean(), quality.std() or 1.0
    place, goal, root = (x - x_mean) / x_scale, (quality - mean) / scale, np.sqrt(weight)

    def errors(b):
        return root * (b[0] * (expit(b[1] * (place - b[2])) - 0.5) + b[3] * place + b[4] - goal)

    def slopes(b):
        step = expit(b[1] * (place - b[2]))
        rise = b[0] * step * (1 - step)
        by_parameter = [step - 0.5, rise * (place - b[2]), -rise * b[1], place, np.ones_like(place)]
        return root[:, None] * np.stack(by_parameter, axis=1)

    method = "lm" if len(x) >= len(CURVE_START) else "trf"  # the first one needs as many rows as parameters
    found = least_squares(errors, CURVE_START, slopes, method=method, ftol=CURVE_TOLERANCE, max_nfev=CURVE_EVALUATIONS)
    b0, b1, b2, b3, b4 = found.x
    slope = b3 * scale / x_scale
    return torch.tensor([b0 * scale, b1 / x_scale, b2 * x_scale + x_mean, slope, b4 * scale + mean - slope * x_mean])


def fit_fusion(features: np.ndarray, quality: np.ndarray, weight: np.ndarray) -> dict[str, torch.Tensor]:
    """The state of an `SRIFNetwork` for training rows.

    Parameters
    ----------
    features : ndarray of shape (n, 10) or (n, 18), float64
        Columns as in `FEATURE_NAMES`, or the first ten of them.
    quality : ndarray of shape (n,)
        Labels of one row or more.
    weight : ndarray of shape (n,)
        How much a row counts, 1 on average.

    Returns
    -------
    state : dict of str to Tensor
    """
    state, root = {}, np.sqrt(weight)

    def mapped(name, columns):
        curves = torch.stack([fit_curve(column, quality, weight) for column in columns.T]).double()
        state[f"{name}_curves"] = curves
        state[f"{name}_ranges"] = torch.from_numpy(np.stack([columns.min(0), columns.max(0)], 1))
        return curve(torch.from_numpy(columns), curves).numpy()

    measures = mapped("measure", features[:, :N_MEASURES]).reshape(-1, 2, 3)
    coefficients = [np.linalg.lstsq(root[:, None] * measures[:, i], root * quality)[0] for i in (0, 1)]
    state["coefficients"] = torch.from_numpy(np.stack(coefficients))
    errors = mapped("fidelity", (measures * np.stack(coefficients)).sum(2)) - quality[:, None]
    moments = np.column_stack([np.ones(len(errors)), errors, errors**2, errors.prod(1)]) * weight[:, None]
    state["moments"], state["prior"] = torch.from_numpy(moments), torch.from_numpy(moments.mean(0))
    scale = features[:, CONTENT].std(0)
    scale[scale == 0] = 1.0
    state["content"], state["content_scale"] = torch.from_numpy(features[:, CONTENT] / scale), torch.from_numpy(scale)
    return state


class SRIF(TransformerMixin, QualityRegressor):
    r"""Super-Resolution Image Fidelity: structure and texture of an enlarged image against the true one.

    No network: deterministic fidelity :math:`D` (are the structures right?) comes from IW-SSIM on three Gaussian
    levels, statistical fidelity :math:`S` (does the texture look natural?) from histograms on three Laplacian levels.
    Each measure is mapped to the labels by a logistic curve, three of a kind are summed with least-squares weights, and

    .. math:: s = w\,(D + b_D) + (1 - w)\,(S + b_S)

    with :math:`w` and the biases predicted from sharpness and entropy of the image. The score has the unit and the
    direction of the labels: with opinions, **higher is better**.

    Parameters
    ----------
    weighting : {"uncertainty", "equal", "df"}, default="uncertainty"
        "uncertainty" weighs by how much both fidelities erred on training images of like content, "equal" takes their
        mean without biases, "df" the deterministic one alone.
    bandwidth : float, default=1.0
        Width of the Gaussian kernel of similarity of content, in standard deviations of each content measure;
        for "uncertainty" only.
    weights : str or path, default=None
        Trained weights of the network: a file (`.pth`, `.pt`, `.safetensors`, `.npz`), or, where the Notes tell of
        published weights, one of their names or "default" for the first. `predict` then works without `fit`, and `fit`
        goes on from there. None trains anew, from `backbone_weights` where there are any.
    device : str, default="auto"
        Where the network runs: "auto" takes the first of "cuda", "mps" and "cpu" that is there.
    n_jobs : int, default=None
        Threads that open images and cut what the network sees ahead of it; on a CPU 1 means none, since the network
        takes all cores. None is 1, unless in a `joblib.parallel_config`; -1 takes all cores. Results do not depend on
        it.
    verbose : int, default=0
        Whether long work shows a progress bar.

    Attributes
    ----------
    network_ : torch.nn.Module
        The fusion: features (n, 18) of pairs, float64 -> score (n,).
    label_scale_ : tuple of float
        Slope and intercept of the line from network scores to the unit of y; after `fit` only. Always 1 and 0.
    interrupted_ : bool
        Whether the last call of `fit` or `partial_fit` ended early, by an interruption or an error; the epochs of
        `n_iter_` are then what it learned.
    device_ : torch.device
        Where the network runs.

    Notes
    -----
    Images become grey, 8 bits, at their native size, of at least 192 pixels on each side; a larger reference is cut to
    the centre of the query's size, of an odd rest one pixel more at the top and at the left. `transform` gives the 18
    features, for other regressors and for pipelines. A pair takes about a second on a CPU; features of a pair are
    cached in memory, so that other folds and parameters cost nothing. Only the fusion runs on `device`.

    The published code reads the weights and biases of each image from a file and does not compute them. Here, by
    inference, they are those of least variance: with the means, variances :math:`v_D, v_S` and covariance :math:`c` of
    the errors on training images of like content, biases are minus the means and
    :math:`w = (v_S - c) / (v_D + v_S - 2 c)`. `fit` is one computation, without epochs: it forgets `weights` and what
    was fitted before. Published weights: none.

    References
    ----------
    .. [1] W. Zhou, Z. Wang, "Quality Assessment of Image Super-Resolution: Balancing Deterministic and Statistical
       Fidelity", ACM MM 2022. https://github.com/weizhou-geek/SRIF

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_iqa import SRIF, make_pairs
    >>> reference = np.random.default_rng(0).integers(0, 256, (192, 200), dtype=np.uint8)
    >>> queries = [reference, reference // 2, reference // 8]
    >>> srif = SRIF(weighting="df").fit(make_pairs(queries, reference), [3.0, 2.0, 1.0])
    >>> srif.transform([(reference, reference)])[0, :6].round(6).tolist()
    [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    """

    inputs = ("query", "reference")
    same_size = False
    min_size = 192
    random_state = 0  # nothing is drawn

    _parameter_constraints: ClassVar[dict[str, list]] = {
        "weighting": [one_of("uncertainty", "equal", "df")],
        "bandwidth": [POSITIVE],
        "weights": [str, os.PathLike, None],
        "device": [str],
        "n_jobs": RUNNING["n_jobs"],
        "verbose": ["verbose"],
    }
    _test_params: ClassVar[dict[str, Any]] = {"weighting": "uncertainty"}
    _test_size: ClassVar[tuple[int, int]] = (200, 208)

    def __init__(self, *, weighting="uncertainty", bandwidth=1.0, weights=None, device="auto", n_jobs=None, verbose=0):
        self.weighting = weighting
        self.bandwidth = bandwidth
        self.weights = weights
        self.device = device
        self.n_jobs = n_jobs
        self.verbose = verbose

    def transform(self, X, *, on_error="raise"):
        """Features of each pair of X; nothing needs to be fitted.

        Parameters
        ----------
        X : container of n pairs
            See the user guide, "What X and y are".
        on_error : {"raise", "nan"}, default="raise"
            What happens to a row that cannot be used: an image that is missing, damaged or unsuitable, one that memory
            does not suffice for, or a result that is not finite. "raise" raises its error; "nan" gives NaN in its
            place, and one warning that counts these rows.

        Returns
        -------
        features : ndarray of shape (n, 18), float64
            Columns as in `get_feature_names_out`.

        Raises
        ------
        ValueError, TypeError, FileNotFoundError, MemoryError
            When a row of X cannot be used; the message states which, and what to do.
        """
        failures, rows = Failures(on_error), self._rows(X)
        features = self._features(rows, failures)
        failures.report(np.flatnonzero(np.isnan(features).any(1)), len(rows))
        return features

    def get_feature_names_out(self, input_features=None):
        """Names of the columns that `transform` gives.

        Parameters
        ----------
        input_features : None
            Ignored; present for pipelines.

        Returns
        -------
        names : ndarray of shape (18,), object
            By level, `iw`: structural fidelity, `kld`: divergence of textures, `l`: sharpness, `h`: entropy, of the
            query or of the reference (`_ref`); `wl` and `wh`: their ratios.
        """
        return np.array(FEATURE_NAMES, dtype=object)

    def _network(self):
        network = SRIFNetwork(self.weighting, self.bandwidth)
        # MPS has no double precision.
        return network.float() if resolve_device(self.device).type == "mps" else network

    def _load_weights(self, network):
        state = state_dicts.read_state(self._weights_path())
        if "content" in state:
            network.make_room(len(state["content"]))
        state_dicts.load_state(network, state, origin=f"weights={str(self.weights)!r}")

    def _loss(self):
        return nn.MSELoss()

    def _start(self, targets, sample_weight):
        self.label_scale_ = (1.0, 0.0)  # the curves map to the unit of y

    def _train(self, rows, targets, sample_weight, n_epochs, seed, tasks):
        weight = np.ones(len(targets)) if sample_weight is None else sample_weight / sample_weight.mean()
        self.network_.load_state_dict(fit_fusion(self._features(rows), targets, weight))

    def _features(self, rows, failures=RAISE) -> np.ndarray:
        features = np.full((len(rows), len(FEATURE_NAMES)), np.nan)
        jobs = self._jobs(rows, failures)
        for job in tqdm(jobs, total=len(rows), disable=not self.verbose, desc=type(self).__name__, unit="image"):
            features[job.name] = failures.finite(job.name, job.views[0].numpy())
        return features

    def _infer(self, rows, failures=RAISE):
        self._ensure_network()
        for job in self._jobs(rows, failures):
            with torch.inference_mode():
                yield job.name, self.network_(job.views.to(self.network_.prior)).cpu()

    def _jobs(self, rows, failures):
        return prepared(lambda row: self._job(rows, row), range(len(rows)), n_threads(self.n_jobs), failures)

    def _open(self, rows, row):
        query, reference = super()._open(rows, row)
        (height, width), (ref_height, ref_width) = query.shape[:2], reference.shape[:2]
        if ref_height < height or ref_width < width:
            raise ValueError(
                f"Row {rows.number(row)} of X holds a query of {height} x {width} and a reference of {ref_height} x "
                f"{ref_width} pixels (height x width), but the reference must cover the query; resize one of them."
            )
        # Of an odd rest the larger half is cut at the top and at the left, where the official demo cuts it.
        top, left = (ref_height - height + 1) // 2, (ref_width - width + 1) // 2
        return query, reference[top : top + height, left : left + width]

    def _views(self, x):
        return torch.from_numpy(fidelity_features(*map(gray, x)))[None]  # (1, 18)

    def _train_view(self, x):
        return self._views(x)[0]
