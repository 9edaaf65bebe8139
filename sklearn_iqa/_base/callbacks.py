# SPDX-License-Identifier: BSD-3-Clause
"""scikit-learn's callbacks (progress bar, scoring monitor) around our training, where scikit-learn has them.

`sklearn.callback` came with scikit-learn 1.9. On older releases `CallbackSupportMixin` is an empty class,
`with_callbacks` changes nothing, and `fit` runs as if no callback were set.
"""

import skorch.callbacks

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:

    class CallbackSupportMixin:  # type: ignore[no-redef]  # a stand-in where the import fails
        """Stand-in for scikit-learn before 1.9, which has no callbacks."""

    def with_callbacks(method):
        """Return the method as it is: scikit-learn before 1.9 has no callbacks."""
        return method


class EpochTasks(skorch.callbacks.Callback):
    """Tells scikit-learn's callbacks of every epoch; asks to stop when one of them does.

    Parameters
    ----------
    estimator : ImageEstimator
        The estimator in training.
    X, y
        What its `fit` was given.
    n_epochs : int
        Epochs to come.
    """

    def __init__(self, estimator, X, y, n_epochs):
        self.estimator, self.X, self.y, self.n_epochs = estimator, X, y, n_epochs

    def open(self):
        """Open the task `fit`, of which training by epochs is a part, where there is any."""
        self.stopped_ = False
        self.fit_task_ = self.estimator._init_callback_context(max_subtasks=self.n_epochs)
        self.fit_task_.call_on_fit_task_begin(estimator=self.estimator, X=self.X, y=self.y)

    def on_epoch_begin(self, net, **kwargs):
        """Open the task of one epoch."""
        self.epoch_task_ = self.fit_task_.subcontext(task_name="epoch")
        self.epoch_task_.call_on_fit_task_begin(estimator=self.estimator, X=self.X, y=self.y)

    def on_epoch_end(self, net, **kwargs):
        """Close the task of one epoch, handing over what predicts."""
        self.stopped_ = bool(self._end(self.epoch_task_))

    def close(self):
        """Close the task `fit`, when all that it learns is known."""
        self._end(self.fit_task_)

    def _end(self, task):
        return task.call_on_fit_task_end(
            estimator=self.estimator,
            X=self.X,
            y=self.y,
            reconstruction_attributes=self.estimator._fitted_attributes(),
        )
