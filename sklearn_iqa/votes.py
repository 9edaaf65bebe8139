# SPDX-License-Identifier: BSD-3-Clause
"""From the votes of observers to mean opinion scores: screening of observers, and estimation of their biases.

Recommendation ITU-R BT.500 rejects observers whose votes lie far from the others' on both sides; ITU-T P.910 and P.913
keep everybody, and estimate the bias and the inconsistency of every observer.

References
----------
Recommendation ITU-R BT.500-14, "Methodologies for the subjective assessment of the quality of television images", 2019,
screening of the observers. Recommendation ITU-T P.913, "Methods for the subjective assessment of video quality, audio
quality and audiovisual quality of Internet video and distribution quality television in any environment", 2021, and
Recommendation ITU-T P.910, "Subjective video quality assessment methods for multimedia applications", 2022, which have
the same model. Z. Li, C. G. Bampis, L. Krasula, L. Janowski, I. Katsavounidis, "A simple model for subject behavior in
subjective experiments", Human Vision and Electronic Imaging 2020.
"""

import warnings
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Bunch, check_consistent_length, column_or_1d
from sklearn.utils._param_validation import StrOptions, validate_params

__all__ = ["mos_from_votes", "screen_observers", "votes_table"]

# Half the width of a 95 % interval in standard deviations, the 1.96 of the recommendations.
NORMAL_95 = float(norm.ppf(0.975))
# Fewest votes per image for the recommendation's inconsistencies: with n observers of equal inconsistency, one whose
# weight is a little too large gets, by the next estimate, 2 / (n - 1) times this excess, which shrinks for n > 3 only.
MIN_VOTES = 4
PRIOR_VOTES = 10  # votes that everybody's common inconsistency is worth beside an observer's own


def votes_table(images: Any, observers: Any, votes: Any) -> Bunch:
    """Arrange a list of votes as a table.

    Parameters
    ----------
    images : array-like of shape (n_votes,)
        Which image a vote is for: any labels.
    observers : array-like of shape (n_votes,)
        Who voted: any labels.
    votes : array-like of shape (n_votes,)
        The votes.

    Returns
    -------
    :class:`~sklearn.utils.Bunch`
        votes : ndarray of shape (n_images, n_observers), float64
            The table, with NaN where an observer did not vote: what `mos_from_votes` takes.
        images : ndarray of shape (n_images,)
            Label of each row, sorted.
        observers : ndarray of shape (n_observers,)
            Label of each column, sorted.

    Raises
    ------
    ValueError
        If the three differ in length, or an observer voted twice on one image.

    Examples
    --------
    >>> from sklearn_iqa.votes import votes_table
    >>> votes_table(["cat", "dog", "cat"], ["Ann", "Ann", "Bob"], [5, 3, 4]).votes
    array([[ 5.,  4.],
           [ 3., nan]])
    """
    images, observers = column_or_1d(images), column_or_1d(observers)
    votes = column_or_1d(votes, dtype=np.float64)
    check_consistent_length(images, observers, votes)
    rows, row = np.unique(images, return_inverse=True)
    columns, column = np.unique(observers, return_inverse=True)
    place, counts = np.unique(row * len(columns) + column, return_counts=True)
    if (counts > 1).any():
        twice = place[np.argmax(counts > 1)]
        raise ValueError(
            f"Observer {columns[twice % len(columns)]} voted {counts.max()} times on image "
            f"{rows[twice // len(columns)]}, but a table holds one vote of each; average such votes, or give every "
            "repetition a label of its own."
        )
    table = np.full((len(rows), len(columns)), np.nan)
    table[row, column] = votes
    return Bunch(votes=table, images=rows, observers=columns)


def screen_observers(votes: Any) -> np.ndarray:
    r"""Observers that BT.500 rejects: often far from the others, and on both sides.

    An image's votes count as normal where their kurtosis :math:`\beta_2 = m_4 / m_2^2` is in 2..4. A vote is far where
    it is at least :math:`k S` from the mean, with :math:`k = 2` for normal votes and :math:`k = \sqrt{20}` for others.
    With :math:`P_i` far votes above and :math:`Q_i` below, an observer is rejected if :math:`P_i + Q_i` is more than
    5 % of the own votes and :math:`|P_i - Q_i| / (P_i + Q_i) < 0.3`: who is far on one side only has a bias, and stays.

    Parameters
    ----------
    votes : array-like of shape (n_images, n_observers)
        The votes, NaN where an observer did not vote.

    Returns
    -------
    rejected : ndarray of shape (n_observers,), bool
        Whether an observer is rejected.

    Raises
    ------
    ValueError
        If the votes are no table, or an image or an observer has none.

    Notes
    -----
    :math:`S` is the sample deviation, with :math:`N - 1`; the moments :math:`m_2` and :math:`m_4` are means. Where all
    votes of an image are equal, none is far. The recommendation wants the screening done once, not repeated on what is
    left, and has experiments with some 15 observers or more in view: a lone dissenter among fewer than 22 is never
    :math:`\sqrt{20} S` away.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_iqa.votes import screen_observers
    >>> votes = np.full((2, 22), 3.0)
    >>> votes[:, 7] = 5, 1
    >>> np.flatnonzero(screen_observers(votes))
    array([7])
    """
    votes = _checked(votes)
    centred = votes - np.nanmean(votes, axis=1, keepdims=True)
    variance = np.nanmean(centred**2, axis=1)
    spread = _sample_std(votes)
    varied = spread > 0  # not where there is one vote, whose spread is NaN
    kurtosis = np.full(len(votes), np.nan)
    kurtosis[varied] = np.nanmean(centred[varied] ** 4, axis=1) / variance[varied] ** 2
    far = np.where((kurtosis >= 2) & (kurtosis <= 4), 2, np.sqrt(20)) * spread
    above = (centred[varied] >= far[varied, None]).sum(axis=0)
    below = (centred[varied] <= -far[varied, None]).sum(axis=0)
    often = above + below > 0.05 * np.isfinite(votes).sum(axis=0)
    return often & (np.abs(above - below) < 0.3 * (above + below))


@validate_params({"method": [StrOptions({"mean", "bt500", "p913", "bias"})]}, prefer_skip_nested_validation=True)
def mos_from_votes(votes: Any, *, method: str = "mean", grades: Any = None) -> Bunch:
    r"""Mean opinion scores (MOS) from a table of votes.

    Parameters
    ----------
    votes : array-like of shape (n_images, n_observers)
        The votes in any unit, NaN where an observer did not vote; see `votes_table` for votes in a list.
    method : {"mean", "bt500", "p913", "bias"}, default="mean"
        How votes become a score.

        - "mean": their mean.
        - "bt500": the mean over the observers that `screen_observers` leaves (ITU-R BT.500).
        - "p913": maximum likelihood of :math:`u_{ji} = \psi_j + \Delta_i + \upsilon_i \varepsilon`, with the score
          :math:`\psi_j` of image j, the bias :math:`\Delta_i` and the inconsistency :math:`\upsilon_i` of observer i
          (ITU-T P.910, P.913). For complete tables.
        - "bias": the same model with inconsistencies shrunk to their mean, see Notes. For tables of any kind,
          above all incomplete ones, where it matters who happened to vote.
    grades : array-like of shape (n_grades,), default=None
        The grades that observers could give, increasing, for the histogram. None takes all whole numbers from the
        lowest to the highest vote, and makes no histogram if votes are no whole numbers.

    Returns
    -------
    :class:`~sklearn.utils.Bunch`
        mean : ndarray of shape (n_images,), float64
            The score, in the unit of the votes.
        std : ndarray of shape (n_images,), float64
            Sample deviation of the votes that count, with "p913" and "bias" after the biases are taken off; NaN for one
            vote.
        interval : ndarray of shape (n_images, 2), float64
            95 % confidence interval of `mean`: 1.96 standard errors to each side.
        n_votes : ndarray of shape (n_images,), int
            How many votes count.
        histogram : ndarray of shape (n_images, n_grades), int, or None
            How many of these votes gave each grade, as they were given: the y that NIMA is trained on.
        grades : ndarray of shape (n_grades,) or None
            The grades of the columns of `histogram`.
        rejected : ndarray of shape (n_observers,), bool
            Who does not count; nobody unless `method` is "bt500".
        bias : ndarray of shape (n_observers,), float64
            How much higher than `mean` an observer votes. "p913" and "bias" take it off the votes; its mean there is
            zero.
        inconsistency : ndarray of shape (n_observers,), float64
            Standard deviation of the observer's votes from `mean`, beside the bias.

    Raises
    ------
    ValueError
        If the votes are no table, an image or an observer has none, a vote is not among `grades`, or `method` is
        unknown. "bt500": if an image has votes of rejected observers only. "p913" and "bias": if observers fall into
        groups that voted on no common image. "p913": if half of the images have fewer than 4 votes.

    Warns
    -----
    ConvergenceWarning
        If the estimates of "p913" or "bias" still move after 1000 steps; with "p913" also if one observer came to
        decide alone.

    See Also
    --------
    screen_observers : The rule of BT.500.
    votes_table : A table from votes in a list.

    Notes
    -----
    "p913" and "bias" alternate: inconsistencies from residuals, scores as means weighted by :math:`\upsilon_i^{-2}`,
    biases as mean residuals. Scores and biases are known up to a constant, which the recommendation leaves open; here
    the mean bias is zero. Intervals are :math:`1.96 / \sqrt{\sum_i \upsilon_i^{-2}}` to each side.

    The likelihood of "p913" has no maximum where one observer agrees with the scores to the bit, and with few votes for
    each image the steps run there: the score then is that observer's vote. "bias" therefore divides squared residuals
    by their degrees of freedom, and adds 10 votes of everybody's common inconsistency to each observer's own. On
    simulated votes (40 images, 24 observers, half of the votes missing, biases of deviation 0.6, inconsistencies from
    0.5 to 1.2) the root mean squared errors of "mean", "p913" and "bias" were 0.29, 0.30 and 0.25, the means of 20
    simulations; without missing votes, with votes rounded to whole grades and inconsistencies from 0.3 to 1.2, they
    were 0.18, 0.15 and 0.15.

    Examples
    --------
    Three images and four observers, the last of whom did not see the last image:

    >>> import numpy as np
    >>> from sklearn_iqa.votes import mos_from_votes
    >>> scores = mos_from_votes([[1, 2, 3, 2], [4, 5, 5, 4], [3, 3, 4, np.nan]], grades=[1, 2, 3, 4, 5])
    >>> scores.mean.round(2)
    array([2.  , 4.5 , 3.33])
    >>> scores.histogram[2]
    array([0, 0, 2, 1, 0])
    """
    votes = _checked(votes)
    rejected = screen_observers(votes) if method == "bt500" else np.zeros(votes.shape[1], dtype=bool)
    counted = np.where(rejected, np.nan, votes)
    n_votes = np.isfinite(counted).sum(axis=1)
    if not n_votes.all():
        raise ValueError(
            f"Image {np.argmin(n_votes)} has votes of rejected observers only, so that no score is left; drop the "
            "image or take method='mean' or 'bias'."
        )
    if method in ("p913", "bias"):
        mean, bias, inconsistency = _recovered(votes, _likeliest if method == "p913" else _steadied)
        std = _sample_std(votes - bias)
        error = np.where(np.isnan(votes), 0.0, inconsistency**-2.0).sum(axis=1) ** -0.5
    else:
        mean, std = np.nanmean(counted, axis=1), _sample_std(counted)
        bias, inconsistency = _deviations(votes, mean)
        error = std / np.sqrt(n_votes)
    histogram, grades = _histogram(counted, grades)
    return Bunch(
        mean=mean,
        std=std,
        interval=mean[:, None] + NORMAL_95 * error[:, None] * [-1, 1],
        n_votes=n_votes,
        histogram=histogram,
        grades=grades,
        rejected=rejected,
        bias=bias,
        inconsistency=inconsistency,
    )


def _checked(votes):
    """Votes as a float64 table in which nobody and nothing is empty."""
    votes = np.asarray(votes, dtype=np.float64)
    if votes.ndim != 2 or votes.size == 0:
        raise ValueError(
            f"Votes are a table (n_images, n_observers), got shape {votes.shape}; votes_table makes one from a list."
        )
    if np.isinf(votes).any():
        row, column = np.argwhere(np.isinf(votes))[0]
        raise ValueError(
            f"The vote of observer {column} on image {row} is infinite, only finite votes can be averaged: write NaN "
            "for a missing one."
        )
    voted = np.isfinite(votes)
    for axis, what, line in ((1, "Image", "row"), (0, "Observer", "column")):
        empty = ~voted.any(axis=axis)
        if empty.any():
            raise ValueError(f"{what} {np.argmax(empty)} has no vote, the whole {line} is NaN: drop the {line}.")
    return votes


def _sample_std(votes):
    """Deviation of each row with N - 1; NaN for one vote."""
    n_votes = np.isfinite(votes).sum(axis=1)
    squares = np.nansum((votes - np.nanmean(votes, axis=1, keepdims=True)) ** 2, axis=1)
    return np.sqrt(np.divide(squares, n_votes - 1, where=n_votes > 1, out=np.full(len(votes), np.nan)))


def _deviations(votes, mean):
    """Bias and inconsistency of each observer beside given scores."""
    residuals = votes - mean[:, None]
    return np.nanmean(residuals, axis=0), np.nanstd(residuals, axis=0)


def _histogram(votes, grades):
    given = votes[np.isfinite(votes)]
    if grades is None:
        if (given % 1 != 0).any():
            return None, None
        grades = np.arange(given.min(), given.max() + 1)
    grades = np.asarray(grades, dtype=np.float64)
    if grades.ndim != 1 or (np.diff(grades) <= 0).any():
        raise ValueError(f"grades must be increasing numbers, such as [1, 2, 3, 4, 5], got {grades.tolist()}.")
    foreign = ~np.isin(given, grades)
    if foreign.any():
        raise ValueError(
            f"A vote is {given[foreign][0]:g}, which is not among the grades {grades.tolist()}; correct it, or give "
            "all grades."
        )
    return (votes[:, :, None] == grades).sum(axis=1), grades


def _recovered(votes, variances, tol=1e-8, max_iter=1000):
    """Scores, biases and inconsistencies by P.913's alternating projections."""
    voted = np.isfinite(votes)
    _check_design(voted)
    if variances is _likeliest and np.median(voted.sum(axis=1)) < MIN_VOTES:
        raise ValueError(
            f"method='p913' needs {MIN_VOTES} votes per image or more, but half of the images have "
            f"{np.median(voted.sum(axis=1)):g} or fewer, too few to estimate inconsistencies; take method='bias'."
        )
    if votes.shape[1] == 1:  # nobody to differ from
        return votes[:, 0], np.zeros(1), np.full(1, np.nan)
    unit = np.nanstd(votes) or 1.0
    floor = 1e-6 * unit  # who agrees with the scores to the bit must not divide by zero
    filled = np.where(voted, votes, 0.0)
    counts = voted.sum(axis=0)
    mean = np.nanmean(votes, axis=1)
    bias = (voted * (filled - mean[:, None])).sum(axis=0) / counts
    weights = voted.astype(np.float64)
    for _ in range(max_iter):
        before = mean
        residuals = voted * (filled - bias - mean[:, None])
        inconsistency = np.maximum(np.sqrt(variances(residuals, weights)), floor)
        weights = voted / inconsistency**2
        mean = (weights * (filled - bias)).sum(axis=1) / weights.sum(axis=1)
        bias = (voted * (filled - mean[:, None])).sum(axis=0) / counts
        if np.linalg.norm(mean - before) < tol * unit:
            break
    else:
        warnings.warn(
            f"The scores still moved by {np.linalg.norm(mean - before):.1e} after {max_iter} steps, as the votes "
            "connect the observers weakly; take method='mean' if that is too much.",
            ConvergenceWarning,
            stacklevel=4,  # the decorator adds a frame
        )
    alone = (inconsistency <= floor) & (np.median(inconsistency) > floor)
    if alone.any():
        warnings.warn(
            f"Observer {np.argmax(alone)} agrees with the scores to the bit and decides them alone, as happens to "
            "method='p913' with few votes; take method='bias'.",
            ConvergenceWarning,
            stacklevel=4,  # the decorator adds a frame
        )
    shift = bias.mean()
    return mean + shift, bias - shift, inconsistency


def _likeliest(residuals, weights):
    """Variance of each observer's residuals, as the recommendation has it."""
    counts = (weights > 0).sum(axis=0)
    return np.maximum((residuals**2).sum(axis=0) / counts - (residuals.sum(axis=0) / counts) ** 2, 0.0)


def _steadied(residuals, weights):
    """The same over its degrees of freedom, and drawn to the variance of all."""
    # NOTE[DIFF] P.913: the mean of squares. The scores follow those who weigh much in them, whose residuals are too
    # small for that: of each vote the part 1 - (its weight in the score) is free, and a bias costs one vote.
    voted = weights > 0
    counts = voted.sum(axis=0)
    freedom = (voted - weights / weights.sum(axis=1, keepdims=True)).sum(axis=0) * (counts - 1) / counts
    squares = (residuals**2).sum(axis=0)
    if freedom.sum() <= 0:
        return np.zeros(len(squares))
    return (squares + PRIOR_VOTES * squares.sum() / freedom.sum()) / (freedom + PRIOR_VOTES)


def _check_design(voted):
    """Refuse votes from which biases cannot be estimated."""
    row, column = np.nonzero(voted)
    n_images, n_observers = voted.shape
    links = coo_array((np.ones(len(row)), (row, n_images + column)), shape=(n_images + n_observers,) * 2)
    n_groups, group = connected_components(links, directed=False)
    if n_groups > 1:
        other = np.argmax(group[n_images:] != group[n_images])
        raise ValueError(
            f"Observers 0 and {other} belong to groups that voted on no common image, so that biases cannot be "
            "separated from quality; take method='mean', or treat the groups apart."
        )
