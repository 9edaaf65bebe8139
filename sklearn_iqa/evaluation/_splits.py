# SPDX-License-Identifier: BSD-3-Clause
"""The papers' protocol as a splitter of scikit-learn: random splits that keep all versions of a content together."""

from typing import Any, ClassVar

import numpy as np
from sklearn.model_selection import GroupShuffleSplit
from sklearn.utils._param_validation import validate_parameter_constraints
from sklearn.utils.validation import _num_samples

from sklearn_iqa._base.parameters import at_least, within

__all__ = ["ContentSplit"]


class ContentSplit(GroupShuffleSplit):
    """Random splits by content: ten times 80 % for training and 20 % for testing, as most papers report it.

    It is a :class:`~sklearn.model_selection.GroupShuffleSplit` with the papers' numbers, which rounds the number of
    contents to the nearest as their code does, in place of rounding the test part up, and which also takes data
    without groups: every row is then a content of its own.

    Parameters
    ----------
    n_splits : int, default=10
        Number of splits.
    test_size : float, default=0.2
        Fraction of the contents in the test part, in (0, 1). At least one content is on either side.
    random_state : int, RandomState instance or None, default=None
        An integer gives the same splits at every call.

    Notes
    -----
    Contents count, not rows: where contents have different numbers of rows, the parts of rows vary.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_iqa import ContentSplit
    >>> groups = np.repeat(["bird", "boat", "bridge", "car", "castle"], 2)
    >>> for train, test in ContentSplit(n_splits=2, random_state=0).split(groups, groups=groups):
    ...     print(groups[test])
    ['bridge' 'bridge']
    ['bird' 'bird']
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_splits": [at_least(1)],
        "test_size": [within(0, 1, closed="neither")],
        "random_state": ["random_state"],
    }

    def __init__(self, n_splits=10, *, test_size=0.2, random_state=None):
        super().__init__(n_splits, test_size=test_size, random_state=random_state)

    def split(self, X: Any, y: Any = None, groups: Any = None):
        """Give the rows of each split.

        Parameters
        ----------
        X : container of n rows
            Only their number counts.
        y : None
            Ignored; present for scikit-learn's interface.
        groups : array-like of shape (n,), default=None
            Content of each row: any labels. None makes every row a content of its own.

        Yields
        ------
        train : ndarray of int
            Training rows.
        test : ndarray of int
            Test rows, whose contents are not among those of `train`.

        Raises
        ------
        ValueError
            If there are fewer than two contents, a parameter is out of its range, or the lengths differ.
        """
        parameters = {name: getattr(self, name) for name in self._parameter_constraints}
        validate_parameter_constraints(self._parameter_constraints, parameters, caller_name=type(self).__name__)
        contents = np.arange(_num_samples(X)) if groups is None else np.asarray(groups)
        n_contents = len(np.unique(contents))
        if n_contents < 2:
            raise ValueError(
                f"ContentSplit needs at least 2 contents, one for training and one for testing, but the groups name "
                f"{n_contents}; give more images, or the group of each."
            )
        n_test = min(max(round(self.test_size * n_contents), 1), n_contents - 1)
        by_number = GroupShuffleSplit(self.n_splits, test_size=n_test, random_state=self.random_state)
        yield from by_number.split(X, y, contents)
