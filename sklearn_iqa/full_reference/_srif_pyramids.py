# SPDX-License-Identifier: BSD-3-Clause
"""Structure, texture and sharpness of grey images on Gaussian and Laplacian pyramids, without a network.

Images are float64 arrays (height, width) in 0..255. The measures follow the MATLAB code of SRIF (Zhou and Wang, ACM MM
2022), its rounding, its 8-bit arithmetic and its borders; each function names the older measure that it modifies.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.fft
import xxhash
from scipy import ndimage

__all__ = [
    "FEATURE_NAMES",
    "divergence",
    "fidelity_features",
    "gray",
    "gray_pyramids",
    "image_facts",
    "range_entropy",
    "sharpness",
    "structural_fidelity",
    "texture_histogram",
    "window_size",
]

FEATURE_NAMES = (
    *("iw1", "iw2", "iw3"),  # structural fidelity on three Gaussian levels, 1 for equal images
    *("kld1", "kld2", "kld3"),  # divergence of textures on three Laplacian levels, 0 for equal images
    *("wl1", "wl2", "wh1", "wh2"),  # sharpness and entropy of the query over those of the reference
    *("l1_ref", "l2_ref", "l1", "l2"),
    *("h1_ref", "h2_ref", "h1", "h2"),
)
N_LEVELS, N_CONTENT_LEVELS = 3, 2
CACHE_SIZE = 2**16  # results, of at most 80 numbers each

GRAY = np.array([0.298936021293776, 0.587043074451121, 0.114020904255103])  # MATLAB's rgb2gray
BURT = np.array([0.05, 0.25, 0.4, 0.25, 0.05])
BINOMIAL = np.sqrt(2) * np.array([1, 4, 6, 4, 1]) / 16  # binom5 of matlabPyrTools
BOX = np.full(3, 1 / 3)

# Structural fidelity, as IW-SSIM (Wang and Li, IEEE TIP 2011) on five scales.
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
STABILISER = (0.03 * 255) ** 2
NEURAL_NOISE, TOLERANCE = 0.4, 1e-15
WINDOW_SIGMA = 1.5

N_BINS = 20  # of the histograms of texture

# Local phase coherence (Hassen, Wang, Salama, IEEE TIP 2013).
WAVELENGTHS = (4.0, 6.0, 8.0)
BANDWIDTH, CUTOFF, N_ORIENTATIONS = 0.33, 0.45, 8
ANGULAR_SIGMA = np.pi / N_ORIENTATIONS / 1.5
ENERGY_STABILISER, RANK_DECAY = 2.0, 1e-4
NOTHING = 1e-12  # sharpness below which there is only rounding


def gray(image: np.ndarray) -> np.ndarray:
    """RGB uint8 in 0..255 or float in 0..1, (height, width, 3) -> whole numbers in 0..255, float64."""
    pixels = image.astype(np.float64) if image.dtype == np.uint8 else np.rint(255 * image.astype(np.float64))
    return np.rint(pixels @ GRAY)


def fidelity_features(query: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The 18 features of a pair of grey images of one size, see `FEATURE_NAMES`.

    Results for an image or a pair are cached for the life of the process, as cross-validation needs them repeatedly.

    Parameters
    ----------
    query, reference : ndarray of shape (height, width)
        Grey images in 0..255, of at least 192 pixels on each side.

    Returns
    -------
    features : ndarray of shape (18,), float64
    """
    structure = _cached_call(structural_fidelity, query, reference)
    of_query, of_reference = _cached_call(image_facts, query), _cached_call(image_facts, reference)
    sharpness, sharpness_ref = of_query["sharpness"], of_reference["sharpness"]
    # NOTE[DIFF] paper: one measure for both; code: the query's Laplacian levels, but the reference's Gaussian ones.
    entropy, entropy_ref = of_query["entropy_laplacian"], of_reference["entropy_gaussian"]
    return np.array(
        [
            *structure,
            *(divergence(*pair) for pair in zip(of_query["textures"], of_reference["textures"], strict=True)),
            *(_ratio(*pair) for pair in zip(sharpness, sharpness_ref, strict=True)),
            *(_ratio(*pair) for pair in zip(entropy, entropy_ref, strict=True)),
            *(*sharpness_ref, *sharpness),
            *(*entropy_ref, *entropy),
        ]
    )


def _ratio(value: float, reference: float) -> float:
    """Quotient, 1 where a flat reference leaves nothing to compare with."""
    return value / reference if reference > NOTHING else 1.0


_cached: dict[tuple, Any] = {}


def _cached_call(function: Callable, *images: np.ndarray):
    key = (function.__name__, *((image.shape, xxhash.xxh3_128_digest(image.data)) for image in images))
    if key not in _cached:
        while len(_cached) >= CACHE_SIZE:
            del _cached[next(iter(_cached))]  # the oldest
        _cached[key] = function(*images)
    return _cached[key]


def image_facts(image: np.ndarray) -> dict[str, list]:
    """The quantities of one image, query or reference, that the features combine.

    Parameters
    ----------
    image : ndarray of shape (height, width)
        Grey image in 0..255.

    Returns
    -------
    facts : dict
        "textures": a histogram for each of three Laplacian levels; "sharpness", "entropy_gaussian" and
        "entropy_laplacian": a number for each of two levels.
    """
    gaussian, laplacian = gray_pyramids(image, N_LEVELS + 1)
    return {
        "textures": [texture_histogram(level) for level in laplacian[:N_LEVELS]],
        "sharpness": [sharpness(level) for level in gaussian[:N_CONTENT_LEVELS]],
        "entropy_gaussian": [range_entropy(_eight_bits(level)) for level in gaussian[:N_CONTENT_LEVELS]],
        "entropy_laplacian": [range_entropy(_raised(level)) for level in laplacian[:N_CONTENT_LEVELS]],
    }


# Pyramids -------------------------------------------------------------------------------------------------------------


def gray_pyramids(image: np.ndarray, n_levels: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Gaussian levels, the first of which is the image, and the Laplacian levels between them (Burt and Adelson 1983).

    Parameters
    ----------
    image : ndarray of shape (height, width)
        Grey image.
    n_levels : int
        Gaussian levels; there is one Laplacian level less.

    Returns
    -------
    gaussian, laplacian : list of ndarray
        Each level has half the height and width of the one before, rounded up.
    """
    gaussian, laplacian = [image], []
    for _ in range(n_levels - 1):
        fine, coarse = gaussian[-1], _filtered(gaussian[-1], BURT)[::2, ::2]
        enlarged = 4 * _filtered(_spread(coarse, (2 * coarse.shape[0], 2 * coarse.shape[1])), BURT)
        gaussian.append(coarse)
        laplacian.append(fine - enlarged[: fine.shape[0], : fine.shape[1]])
    return gaussian, laplacian


def _filtered(image: np.ndarray, kernel: np.ndarray, mode: str = "constant") -> np.ndarray:
    """Filter rows and columns; beyond the border lie zeros, or the mirrored image."""
    return ndimage.correlate1d(ndimage.correlate1d(image, kernel, 0, mode=mode), kernel, 1, mode=mode)


def _inside(image: np.ndarray, border: int) -> np.ndarray:
    return image[border : image.shape[0] - border, border : image.shape[1] - border]


def _spread(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Every second pixel of a canvas of zeros."""
    canvas = np.zeros(shape)
    canvas[::2, ::2] = image
    return canvas


def _eight_bits(image: np.ndarray) -> np.ndarray:
    """MATLAB's uint8(): halves away from zero, what is out of range to its end."""
    return np.clip(np.floor(image + 0.5), 0, 255)


def _raised(laplacian: np.ndarray) -> np.ndarray:
    """128 more, in 8 bits, so that all that was negative becomes 128: half of the signal, kept as the code has it."""
    return np.minimum(_eight_bits(laplacian) + 128, 255)


def _gaussian(size: int, sigma: float) -> np.ndarray:
    kernel = np.exp(-(((np.arange(size) - (size - 1) / 2) / sigma) ** 2) / 2)
    return kernel / kernel.sum()


# Structure ------------------------------------------------------------------------------------------------------------


def structural_fidelity(query: np.ndarray, reference: np.ndarray) -> list[float]:
    """IW-SSIM without luminance and contrast, on three Gaussian levels.

    Parameters
    ----------
    query, reference : ndarray of shape (height, width)
        Grey images in 0..255, of at least 192 pixels on each side.

    Returns
    -------
    fidelity : list of 3 float
        At most 1, which equal images have.
    """
    levels = (gray_pyramids(image, N_LEVELS)[0] for image in (query, reference))
    return [_structure(_eight_bits(one), _eight_bits(other)) for one, other in zip(*levels, strict=True)]


def _structure(query: np.ndarray, reference: np.ndarray) -> float:
    window = _gaussian(window_size(query.shape), WINDOW_SIGMA)
    queries, references = _bands(query), _bands(reference)
    fidelity = complex(1)
    for number, scale_weight in enumerate(SCALE_WEIGHTS):
        similarity = _similarity(queries[number], references[number], window)
        mean = similarity.mean()
        if number < len(SCALE_WEIGHTS) - 1:  # the low band is not weighted
            parent = references[number + 1] if number < len(SCALE_WEIGHTS) - 2 else None
            weight = _inside(_information(queries[number], references[number], parent), len(window) // 2 - 1)
            mean = (similarity * weight).sum() / weight.sum() if weight.any() else mean
        fidelity *= complex(mean) ** scale_weight  # of a negative mean the code keeps the real part in the end
    return fidelity.real


def window_size(shape: tuple[int, ...]) -> int:
    """Side of the window at a level: odd, a sixteenth of the shorter side; IW-SSIM itself has 11 pixels everywhere."""
    size = min(shape) // 16
    return size - 1 + size % 2


def _bands(image: np.ndarray) -> list[np.ndarray]:
    """Laplacian pyramid of matlabPyrTools, whose low bands carry a gain of 2 per level."""
    bands = []
    for _ in SCALE_WEIGHTS[1:]:
        low = _filtered(image, BINOMIAL, "mirror")[::2, ::2]
        bands.append(image - _filtered(_spread(low, image.shape), BINOMIAL, "mirror"))
        image = low
    return [*bands, image]


def _similarity(query: np.ndarray, reference: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Correlation within a window, wherever the window lies inside."""

    def mean(image):
        return _inside(_filtered(image, window), len(window) // 2)

    query_mean, reference_mean = mean(query), mean(reference)
    query_variance = np.maximum(mean(query**2) - query_mean**2, 0)
    reference_variance = np.maximum(mean(reference**2) - reference_mean**2, 0)
    covariance = mean(query * reference) - query_mean * reference_mean
    return (covariance + STABILISER) / (np.sqrt(query_variance * reference_variance) + STABILISER)


def _information(query: np.ndarray, reference: np.ndarray, parent: np.ndarray | None) -> np.ndarray:
    """Information that query and reference share through a noisy channel, at every pixel but those of the border."""
    gain, error = (_inside(one, 1) for one in _channel(query, reference))
    patches = np.lib.stride_tricks.sliding_window_view(reference, (3, 3)).reshape(-1, 9)
    if parent is not None:
        enlarged = _enlarged(_enlarged(parent, 0), 1)[: reference.shape[0], : reference.shape[1]]
        patches = np.column_stack([patches, _inside(enlarged, 1).ravel()])
    eigenvalues, vectors = np.linalg.eigh(patches.T @ patches / len(patches))
    positive = np.maximum(eigenvalues, 0)
    if not positive.any():
        return np.zeros_like(gain)
    eigenvalues = positive * (eigenvalues.sum() / positive.sum())
    known = eigenvalues > eigenvalues.max() * len(eigenvalues) * np.finfo(float).eps
    scale = ((patches @ vectors[:, known]) ** 2 / eigenvalues[known]).sum(1).reshape(gain.shape) / len(eigenvalues)
    signal, noise = (error + (1 + gain**2) * NEURAL_NOISE) * scale, NEURAL_NOISE * error
    # A product in place of a sum of logarithms: ten factors below 1e10 are far from overflow, and logarithms are slow.
    product = np.ones_like(gain)
    for eigenvalue in eigenvalues:
        product *= 1 + (signal * eigenvalue + noise) / NEURAL_NOISE**2
    information = np.log2(product)
    return np.where(information < TOLERANCE, 0, information)


def _channel(query: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gain and error variance of the query as a linear function of the reference, in 3 x 3 windows."""
    query_mean, reference_mean = _filtered(query, BOX), _filtered(reference, BOX)
    covariance = _filtered(query * reference, BOX) - query_mean * reference_mean
    query_variance = np.maximum(_filtered(query**2, BOX) - query_mean**2, 0)
    reference_variance = np.maximum(_filtered(reference**2, BOX) - reference_mean**2, 0)
    gain = covariance / (reference_variance + TOLERANCE)
    error = query_variance - gain * covariance
    flat_query, flat_reference = query_variance < TOLERANCE, reference_variance < TOLERANCE
    gain[flat_reference | flat_query] = 0
    error[flat_reference] = query_variance[flat_reference]
    error[flat_query] = 0
    return gain, error


def _enlarged(image: np.ndarray, axis: int) -> np.ndarray:
    """Twice as long: bilinear to 4 n - 3 pixels as MATLAB's imresize, a linear step beyond both ends, every second."""
    image = np.moveaxis(image, axis, 0)
    n, n_new = len(image), 4 * len(image) - 3
    places = np.clip((np.arange(n_new) + 0.5) * n / n_new - 0.5, 0, n - 1)
    left = np.minimum(places.astype(int), n - 2)
    weight = (places - left)[:, None]
    fine = (1 - weight) * image[left] + weight * image[left + 1]
    fine = np.concatenate([2 * fine[:1] - fine[1:2], fine, 2 * fine[-1:] - fine[-2:-1]])
    return np.moveaxis(fine[::2], 0, axis)


# Texture --------------------------------------------------------------------------------------------------------------


def texture_histogram(laplacian: np.ndarray) -> np.ndarray:
    """Counts (20,) of the locally normalised values of a Laplacian level, in 0..1."""
    image = _raised(laplacian)
    window = _gaussian(7, 7 / 6)
    mean = _filtered(image, window)
    deviation = np.sqrt(np.abs(_filtered(image**2, window) - mean**2))
    normalised = np.clip((image - mean) / (deviation + 1), 0, 1)
    return np.bincount((normalised * (N_BINS - 1) + 0.5).astype(int).ravel(), minlength=N_BINS)  # MATLAB's imhist


def divergence(query: np.ndarray, reference: np.ndarray) -> float:
    """Kullback and Leibler's divergence of two histograms, over the bins that are empty in neither; at least 0."""
    p, q = query / query.sum(), reference / reference.sum()
    common = (p > 0) & (q > 0)
    return float(abs((p[common] * np.log(p[common] / q[common])).sum() / p[common].sum()))


def range_entropy(image: np.ndarray) -> float:
    """Entropy in bits of the ranges within 3 x 3 pixels of an 8-bit image."""
    ranges = ndimage.maximum_filter(image, 3, mode="reflect") - ndimage.minimum_filter(image, 3, mode="reflect")
    p = np.bincount(ranges.astype(int).ravel()) / ranges.size
    p = p[p > 0]
    return float(-(p * np.log2(p)).sum())


# Sharpness ------------------------------------------------------------------------------------------------------------


def sharpness(image: np.ndarray) -> float:
    """LPC-SI: how much the phases of three scales agree where the energy is high; from 0 to nearly 1."""
    radial, angular = _log_gabor_filters(image.shape)
    spectra = [scipy.fft.fft2(image) * one for one in radial]
    border = int(min(image.shape) / 16 + 0.5)
    coherent = np.zeros_like(_inside(image, border))
    total = np.zeros_like(coherent)
    for direction in angular:
        finest, middle, coarsest = (_inside(scipy.fft.ifft2(one * direction), border) for one in spectra)
        energy = np.abs(finest)
        energy -= energy.mean() + 2 * energy.std(ddof=1)
        strong = energy > 0
        # Weights 1, -3, 2 of the phases, on unit vectors where there is a phase at all.
        together = finest[strong] * middle[strong].conj() ** 3 * coarsest[strong] ** 2
        cosine = np.maximum(np.cos(np.angle(together)), 0)
        coherent[strong] += cosine * energy[strong]
        total[strong] += energy[strong]
    ranked = np.sort((coherent / (total + ENERGY_STABILISER)).ravel())[::-1]
    weights = np.exp(-np.arange(len(ranked)) / (len(ranked) - 1) / RANK_DECAY)
    return float((ranked * weights).sum() / weights.sum())


@functools.lru_cache(maxsize=4)
def _log_gabor_filters(shape: tuple[int, int]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Radial and angular factors of the filters, zero frequency first."""
    y, x = np.meshgrid(*map(_frequencies, shape), indexing="ij")
    radius, angle = scipy.fft.ifftshift(np.hypot(x, y)), scipy.fft.ifftshift(np.arctan2(-y, x))
    low_pass = 1 / (1 + (radius / CUTOFF) ** 30)
    with np.errstate(divide="ignore"):  # at zero frequency, where the filter is zero as it should be
        logarithm = np.log(radius)
    radial = [
        np.exp(-((logarithm + np.log(wavelength)) ** 2) / (2 * np.log(BANDWIDTH) ** 2)) * low_pass
        for wavelength in WAVELENGTHS
    ]
    apart = [np.pi * number / N_ORIENTATIONS - angle for number in range(N_ORIENTATIONS)]
    angular = [np.exp(-((np.angle(np.exp(1j * one)) / ANGULAR_SIGMA) ** 2) / 2) for one in apart]
    return radial, angular


def _frequencies(n: int) -> np.ndarray:
    """Frequencies along an axis; for odd n the code divides by n - 1."""
    return (np.arange(n) - n // 2) / (n - n % 2)
