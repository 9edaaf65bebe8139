# SPDX-License-Identifier: BSD-3-Clause
"""Domains: data sets that teach one network, each in a unit of its own, so that ranks within one are compared."""

import warnings
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.utils import check_consistent_length, column_or_1d

from sklearn_iqa._base.training import Subset
from sklearn_iqa.metrics import srcc

__all__ = ["DomainsMixin", "domain_numbers", "numbers_by_domain"]


class DomainsMixin:
    """Learns from pairs of one domain; stands left of `QualityRegressor`.

    Targets hold quality in the first column and the number of the domain in the column `domain_column`.
    """

    domain_column: ClassVar[int]

    predict: Callable[..., Any]
    _label_quality: Callable[[Any], Any]
    _direction: Callable[[], int]
    _scores: Callable[[Any], np.ndarray]
    _calibrate: Callable[..., None]
    net_: Any
    label_scale_: tuple[float, float]

    def score(self, X, y, sample_weight=None, *, domains=None):
        """Spearman's rank correlation of the predictions with y, signed so that more is better; mean over domains.

        Parameters
        ----------
        X : container of n images
            See the user guide, "What X and y are".
        y : array-like of shape (n,)
            Quality, higher is better; as `fit` takes it.
        sample_weight : array-like of shape (n,), default=None
            How many rows each row counts as, relative to the others of its domain; None counts each once.
        domains : array-like of shape (n,), default=None
            Data set of each image, as in `fit`. Images are ranked within each of them, as their units may differ, and
            the correlations are averaged; one with fewer than two images is left out, with a warning. None ranks all
            images together.

        Returns
        -------
        srcc : float
            In [-1, 1]; a domain whose predictions or y are constant counts as 0.0, with a warning.
        """
        quality, predicted = np.asarray(self._label_quality(y), dtype=float), self._direction() * self.predict(X)
        if domains is None:
            return srcc(quality, predicted, sample_weight=sample_weight)
        domains = column_or_1d(domains)
        check_consistent_length(quality, predicted, domains, sample_weight)
        counts = np.ones(len(quality), bool) if sample_weight is None else np.asarray(sample_weight) > 0
        names, numbers = np.unique(domains, return_inverse=True)
        for name, n_rows in zip(names, np.bincount(numbers[counts], minlength=len(names)), strict=True):
            if n_rows < 2:
                message = f"Domain {name} has fewer than two rows that count and is left out of the mean."
                warnings.warn(message, UndefinedMetricWarning, stacklevel=2)
        return _mean_srcc(quality, predicted, numbers, sample_weight, counts)

    def _quality(self, targets: np.ndarray) -> np.ndarray:
        return targets[:, 0] if targets.ndim == 2 else targets

    def _held_out_score(self, rows, targets, held_out: np.ndarray, sample_weight) -> Callable[[], float]:
        quality, domains = self._quality(targets)[held_out], targets[held_out, self.domain_column].astype(int)
        weight = None if sample_weight is None else sample_weight[held_out]
        if np.bincount(domains).max() < 2:
            raise ValueError(
                f"early_stopping holds out {len(held_out)} rows, but no domain has two among them, which could be "
                "ranked; raise validation_fraction, or set early_stopping=False."
            )
        subset, every = Subset(rows, held_out), np.ones(len(held_out), bool)
        return lambda: _mean_srcc(quality, self._scores(subset), domains, weight, every)

    def _finish(self, rows, targets, sample_weight):
        if np.ptp(targets[:, self.domain_column]) > 0:
            self.label_scale_ = (1.0, 0.0)  # several domains have no common unit
        else:
            self._calibrate(rows, targets, sample_weight)

    def _finish_epoch(self, rows, targets, sample_weight):
        several = np.ptp(targets[:, self.domain_column]) > 0
        self.label_scale_ = (1.0, 0.0) if several else dict(self.net_.callbacks_)["line"].line()

    def _encode_targets(self, targets):
        return targets


def _mean_srcc(quality, scores, domains, sample_weight, counts) -> float:
    """Mean over the domains with two rows that count, of numbers from 0."""
    members = [np.flatnonzero((domains == number) & counts) for number in np.unique(domains)]
    members = [rows for rows in members if len(rows) > 1]
    if not members:
        raise ValueError(
            "Images are ranked within their domain, but no domain has two rows that count; give more rows."
        )
    weights = [None if sample_weight is None else np.asarray(sample_weight)[rows] for rows in members]
    values = [srcc(quality[rows], scores[rows], sample_weight=w) for rows, w in zip(members, weights, strict=True)]
    return float(np.mean(values))


def domain_numbers(rows, domains, name: str) -> tuple[list, np.ndarray]:
    """Names of the domains, and the place (n,) of each row's domain among them; None is one domain, named 0.

    Raises
    ------
    ValueError
        When the number of entries is not that of the rows, or no domain has two rows.
    """
    check_consistent_length(rows, domains)
    domains = np.zeros(len(rows), dtype=int) if domains is None else column_or_1d(domains)
    names, numbers = np.unique(domains, return_inverse=True)
    if np.bincount(numbers).max() < 2:
        raise ValueError(
            f"{name} learns from pairs of one domain, but n_samples={len(rows)} in {len(names)} domain(s) make none; "
            "give at least two images of a domain."
        )
    return names.tolist(), numbers


def numbers_by_domain(numbers: Mapping[Any, int], names: list, what: str, *, lowest: int) -> list[int]:
    """Whole numbers that users give by the name of a domain -> one for each of the names; others are ignored.

    Raises
    ------
    ValueError
        When a name is missing, or a number is not whole or below `lowest`; `what` is the parameter.
    """
    if missing := [name for name in names if name not in numbers]:
        raise ValueError(f"{what}={numbers!r} has no number for the domain {missing[0]!r}; give one for each domain.")
    for name in names:
        if not isinstance(numbers[name], Integral) or numbers[name] < lowest:
            raise ValueError(
                f"{what} holds {numbers[name]!r} for the domain {name!r}; give a whole number from {lowest} on."
            )
    return [int(numbers[name]) for name in names]
