# SPDX-License-Identifier: BSD-3-Clause
"""Plots in scikit-learn's Display pattern: scores against MOS, and maps of local quality over an image.

Matplotlib is imported when a display plots, so that the package does without it.
"""

from typing import Any

import numpy as np

from sklearn_iqa._base.images import read_image
from sklearn_iqa._base.rows import count_images
from sklearn_iqa.metrics import fit_logistic, plcc, plcc_logistic, srcc

__all__ = ["AgreementDisplay", "QualityMapDisplay"]


class AgreementDisplay:
    """Predicted scores against mean opinion scores, with the logistic curve between them, SRCC and PLCC.

    Use `from_estimator` or `from_predictions` to make one. All parameters are stored as attributes.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Mean opinion scores (MOS), in any unit.
    y_pred : array-like of shape (n_samples,)
        Predicted scores, in any unit and direction.
    name : str, default=None
        Name of the scores in the legend.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the plot.
    figure_ : matplotlib Figure
        Figure that holds the axes.
    scatter_ : matplotlib PathCollection
        A point for each image: score (x) and MOS (y).
    line_ : matplotlib Line2D or None
        The fitted curve; None with ``logistic=False``.

    See Also
    --------
    sklearn_iqa.metrics.fit_logistic : the curve.
    sklearn_iqa.metrics.srcc, sklearn_iqa.metrics.plcc_logistic : the metrics of the legend.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_iqa import AgreementDisplay
    >>> scores = np.linspace(0, 1, 20)
    >>> display = AgreementDisplay.from_predictions(scores**2, scores, name="Example")
    >>> display.scatter_.get_label()
    'Example (SRCC = 1.000)'
    """

    def __init__(self, *, y_true: Any, y_pred: Any, name: str | None = None):
        self.y_true = y_true
        self.y_pred = y_pred
        self.name = name

    def plot(
        self,
        ax: Any = None,
        *,
        logistic: bool = True,
        name: str | None = None,
        scatter_kwargs: dict[str, Any] | None = None,
        line_kwargs: dict[str, Any] | None = None,
    ) -> "AgreementDisplay":
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure. Several displays may share axes.
        logistic : bool, default=True
            Whether to draw the fitted five-parameter curve and to state PLCC after it; otherwise there is no curve,
            and PLCC is that of the scores as they are.
        name : str, default=None
            Name of the scores in the legend; None takes the display's name.
        scatter_kwargs : dict, default=None
            Keywords for `matplotlib.axes.Axes.scatter`, such as ``c=`` to colour the points by distortion.
        line_kwargs : dict, default=None
            Keywords for `matplotlib.axes.Axes.plot`, for the curve.

        Returns
        -------
        display : AgreementDisplay
            Itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If the inputs differ in length, are not one-dimensional, hold NaN or infinity, or have fewer than 2
            values.
        """
        metrics = f"SRCC = {srcc(self.y_true, self.y_pred):.3f}"
        if not logistic:
            metrics += f", PLCC = {plcc(self.y_true, self.y_pred):.3f}"
        name = self.name if name is None else name
        label = metrics if name is None else f"{name} ({metrics})"

        ax = new_axes("AgreementDisplay") if ax is None else ax
        self.scatter_ = ax.scatter(
            self.y_pred, self.y_true, **{"s": 18, "alpha": 0.6, "label": label, **(scatter_kwargs or {})}
        )
        self.line_ = self._draw_curve(ax, line_kwargs or {}) if logistic else None
        ax.set(xlabel="Predicted score", ylabel="Mean opinion score")
        ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _draw_curve(self, ax, line_kwargs):
        mapping = fit_logistic(self.y_true, self.y_pred)
        scores = np.linspace(np.min(self.y_pred), np.max(self.y_pred), 500)
        kind = "Straight line" if mapping.is_line else "Logistic curve"
        label = f"{kind} (PLCC = {plcc_logistic(self.y_true, self.y_pred):.3f})"
        style = {"color": "black", "linewidth": 1.5, "label": label, **line_kwargs}
        return ax.plot(scores, mapping(scores), **style)[0]

    @classmethod
    def from_predictions(
        cls,
        y_true: Any,
        y_pred: Any,
        *,
        logistic: bool = True,
        ax: Any = None,
        name: str | None = None,
        scatter_kwargs: dict[str, Any] | None = None,
        line_kwargs: dict[str, Any] | None = None,
    ) -> "AgreementDisplay":
        """Draw given scores.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            Mean opinion scores (MOS), in any unit.
        y_pred : array-like of shape (n_samples,)
            Predicted scores, in any unit and direction.
        logistic, ax, name, scatter_kwargs, line_kwargs
            See `plot`.

        Returns
        -------
        display : AgreementDisplay
        """
        return cls(y_true=y_true, y_pred=y_pred, name=name).plot(
            ax, logistic=logistic, scatter_kwargs=scatter_kwargs, line_kwargs=line_kwargs
        )

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        logistic: bool = True,
        ax: Any = None,
        name: str | None = None,
        scatter_kwargs: dict[str, Any] | None = None,
        line_kwargs: dict[str, Any] | None = None,
    ) -> "AgreementDisplay":
        """Draw the scores that an estimator gives to X.

        Parameters
        ----------
        estimator : estimator
            Ready to predict: fitted, or with published weights.
        X : container of n images or pairs, or whatever the estimator predicts from
            Preferably images that `fit` has not seen.
        y : array-like of shape (n,)
            Mean opinion scores (MOS), in any unit.
        logistic, ax
            See `plot`.
        name : str, default=None
            Name of the scores in the legend; None takes the estimator's class name.
        scatter_kwargs, line_kwargs
            See `plot`.

        Returns
        -------
        display : AgreementDisplay
        """
        return cls.from_predictions(
            y,
            estimator.predict(X),
            logistic=logistic,
            ax=ax,
            name=type(estimator).__name__ if name is None else name,
            scatter_kwargs=scatter_kwargs,
            line_kwargs=line_kwargs,
        )


class QualityMapDisplay:
    """An image under a semi-transparent map of local quality or of local distortion.

    Use `from_estimator` to make one. All parameters are stored as attributes.

    Parameters
    ----------
    quality_map : array-like of shape (map_height, map_width)
        One number for each place; scaled to the size of the image.
    image : image, default=None
        Image under the map: an array, a path, a PIL image or a torch tensor.
    label : str, default="Local quality (higher is better)"
        Label of the colour bar; it must state the direction, as numbers alone do not.
    name : str, default=None
        Title of the axes.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the picture.
    figure_ : matplotlib Figure
        Figure that holds the axes.
    image_ : matplotlib AxesImage or None
        The image; None without one.
    map_ : matplotlib AxesImage
        The map over it.
    colorbar_ : matplotlib Colorbar
        The scale of the map.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_iqa import QualityMapDisplay
    >>> display = QualityMapDisplay(np.eye(4), np.zeros((32, 32, 3), np.uint8)).plot()
    >>> display.map_.get_extent() == display.image_.get_extent()
    True
    """

    def __init__(
        self,
        quality_map: Any,
        image: Any = None,
        *,
        label: str = "Local quality (higher is better)",
        name: str | None = None,
    ):
        self.quality_map = quality_map
        self.image = image
        self.label = label
        self.name = name

    def plot(self, ax: Any = None, *, cmap: Any = "viridis", alpha: float = 0.6) -> "QualityMapDisplay":
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        cmap : str or matplotlib Colormap, default="viridis"
            Colours of the map, from low to high.
        alpha : float, default=0.6
            Opacity of the map over the image, from 0 (invisible) to 1 (opaque). Without an image the map is
            opaque.

        Returns
        -------
        display : QualityMapDisplay
            Itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If the map is not two-dimensional.
        """
        quality_map = np.asarray(self.quality_map)
        if quality_map.ndim != 2:
            raise ValueError(
                f"A quality map is a two-dimensional array (height, width), got shape {quality_map.shape}; pass the "
                "map of one image."
            )
        image = None if self.image is None else read_image(self.image)
        ax = new_axes("QualityMapDisplay") if ax is None else ax
        self.image_, extent = None, None
        if image is None:
            alpha = 1.0
        else:
            self.image_ = ax.imshow(image)
            extent = self.image_.get_extent()
        self.map_ = ax.imshow(quality_map, cmap=cmap, alpha=alpha, extent=extent, interpolation="bilinear")
        self.colorbar_ = ax.figure.colorbar(self.map_, ax=ax, label=self.label, shrink=0.8)
        ax.set_axis_off()
        ax.set_title(self.name)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        x: Any,
        *,
        ax: Any = None,
        label: str | None = None,
        name: str | None = None,
        cmap: Any = "viridis",
        alpha: float = 0.6,
    ) -> "QualityMapDisplay":
        """Draw the quality map that an estimator gives for one image.

        Parameters
        ----------
        estimator : estimator with a method `quality_map`
            Ready to predict: fitted, or with published weights.
        x : image, or tuple (query, reference)
            What `estimator.quality_map` takes; of a pair, the query is shown.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.
        label : str, default=None
            Label of the colour bar; None derives from ``estimator.higher_is_better`` whether the map is one of quality
            or of distortion.
        name : str, default=None
            Title of the axes; None takes the estimator's class name.
        cmap, alpha
            See `plot`.

        Returns
        -------
        display : QualityMapDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError
            If the estimator has no `quality_map`.
        """
        if not hasattr(estimator, "quality_map"):
            raise TypeError(
                f"{type(estimator).__name__} has no method quality_map(x), which the display needs; "
                "use a method that has one, such as LPIPS."
            )
        if label is None:
            label = (
                "Local quality (higher is better)"
                if estimator.higher_is_better
                else "Local distortion (lower is better)"
            )
        query = x[0] if count_images([x]) > 1 else x
        name = type(estimator).__name__ if name is None else name
        return cls(estimator.quality_map(x), query, label=label, name=name).plot(ax, cmap=cmap, alpha=alpha)


def new_axes(display: str) -> Any:
    """Give the axes of a new figure.

    Parameters
    ----------
    display : str
        Class that needs them, for the error.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            f"{display} draws with matplotlib, which is not installed: pip install 'sklearn-iqa[plot]'."
        ) from error
    return plt.subplots(layout="constrained")[1]
