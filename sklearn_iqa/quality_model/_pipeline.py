# SPDX-License-Identifier: BSD-3-Clause
"""The pipeline of the default model: a scikit-learn pipeline that scores on where some images cannot be used."""

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils.metaestimators import available_if


class QualityPipeline(Pipeline):
    """A :class:`~sklearn.pipeline.Pipeline` whose first step turns images into rows of features."""

    @available_if(lambda self: hasattr(self.steps[-1][1], "predict"))
    def predict(self, X, *, on_error="raise", **params):
        """Quality of each image of X.

        Parameters
        ----------
        X : container of n images
            See the user guide, "What X and y are".
        on_error : {"raise", "nan"}, default="raise"
            As in :meth:`sklearn_iqa.TimmFeatures.transform`: "nan" scores the other images.
        **params : dict
            Further arguments of the last step, such as ``return_std=True``.

        Returns
        -------
        score : ndarray of shape (n,)
            Higher is better.
        """
        if on_error == "raise":
            return super().predict(X, **params)
        features = np.asarray(self.steps[0][1].transform(X, on_error=on_error))
        missing = np.isnan(features).any(axis=1)
        # The other steps take finite numbers alone.
        found = self[1:].predict(np.where(missing[:, np.newaxis], 0, features), **params)
        for values in found if isinstance(found, tuple) else (found,):
            values[missing] = np.nan
        return found
