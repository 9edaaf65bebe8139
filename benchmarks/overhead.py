# SPDX-License-Identifier: BSD-3-Clause
"""What `predict` and training cost beside the best hand-written loop over the same network.

Predict: decoded images of the size that the method's network takes, or of 384 x 512 pixels where it takes any or sees
crops, against the network on ready tensors, in inference mode, channels-last, in the batches that are fastest. The loop
neither opens, converts, crops nor checks an image. Where the network takes one size, images of 384 x 512 pixels, which
`predict` resizes, stand beside the same loop.
Training: an epoch of `partial_fit` against a loop that makes the same views one after the other and takes the same
steps on ready tensors.
All ways take turns in one process. Every estimator stands at its defaults, with seeded weights.
Run: python benchmarks/overhead.py [--only NAME ...] [--what predict train]
"""

import contextlib
import functools

import numpy as np
import torch
from measuring import (
    SIZE,
    Report,
    elapsed,
    estimator_names,
    in_turns,
    make,
    parser,
    ratio,
    ready,
    rows_for,
    run,
    spread,
)
from skorch.callbacks import Callback
from skorch.utils import to_device

from sklearn_iqa._base.devices import computing
from sklearn_iqa._base.training import RowsApart
from sklearn_iqa.pair_input.re_iqa import halved

SIZES = (1, 2, 4, 8)  # views in a batch that the loop chooses from
HEAVY = ("AHIQ", "MANIQA")  # half a minute and more per image on two cores
# Stages before the ordinary training left out, or as short as they can be; a pair learns without held-out rows.
SHORT = {
    "scnn_epochs": 0,
    "head_epochs": 0,
    "warmup_epochs": 0,
    "content_epochs": 1,
    "pretrain_steps": 0,
    "meta_epochs": 0,
    "comparison_epochs": 0,
    "teacher_epochs": 1,
    "early_stopping": False,
    "max_epochs": 100,  # of which one is measured
}
OWN = {"CLIPIQA": {"n_context": 4}}  # without a context nothing is trained


# Predict --------------------------------------------------------------------------------------------------------------


def network_of(estimator):
    """The callable that a hand-written loop runs: views (n, ...) -> output."""
    if hasattr(estimator, "network_"):
        return estimator.network_
    return estimator._network(str(torch.device(estimator.device))).forward_features  # frozen features


def views_of(estimator, x) -> list[torch.Tensor]:
    """Ready tensors of one row: views of one shape each."""
    if type(estimator).__name__ == "ReIQA":  # sees an image and its half
        return [estimator._views(x), estimator._views(halved(x))]
    return [estimator._views(x)]


def bare_loop(estimator, X, device: str = "cpu"):
    """Give the function that runs the network over all rows in the fastest batches.

    Where views are themselves the method's work, as with SRIF, the loop makes them.
    """
    network, settings = network_of(estimator), computing(torch.device(device), estimator.precision)
    if type(estimator).__name__ == "SRIF":
        return lambda: [network(estimator._views(x)) for x in X]
    by_shape: dict[tuple, list[torch.Tensor]] = {}
    for x in X:
        for views in views_of(estimator, x):
            by_shape.setdefault(tuple(views.shape[1:]), []).append(views)
    tensors = [torch.cat(views) for views in by_shape.values()]
    sizes = SIZES if device == "cpu" else tuple(8 * size for size in SIZES)
    chosen = [
        _fastest(network, one, [size for size in sizes if size <= len(one)] or [len(one)], device) for one in tensors
    ]
    batches = [batch for one, size in zip(tensors, chosen, strict=True) for batch in _batches(one, size, device)]

    def loop():
        with torch.inference_mode(), settings:
            for batch in batches:
                network(batch)

    return loop


def _batches(tensor: torch.Tensor, size: int, device: str) -> list[torch.Tensor]:
    layout = {"memory_format": torch.channels_last} if tensor.ndim == 4 else {}
    return [batch.to(device).contiguous(**layout) for batch in tensor.split(size)]


def _fastest(network, tensor: torch.Tensor, sizes: list[int], device: str) -> int:
    n_tried = max(sizes)
    seconds = {}
    with torch.inference_mode():
        for size in sizes:
            batches = _batches(tensor[:n_tried], size, device)
            network(batches[0])
            seconds[size] = elapsed(functools.partial(_pass, network, batches))
    return min(seconds, key=lambda size: seconds[size])


def _pass(network, batches: list[torch.Tensor]) -> None:
    for batch in batches:
        network(batch)


def input_size(estimator, image) -> tuple[int, int] | None:
    """Height and width that the network takes, where it sees one view of each image."""
    (views, *halves) = views_of(estimator, image)
    is_one = not halves and len(views) == 1 and views.ndim > 3
    return tuple(views.shape[-2:]) if is_one else None


def time_predict(name: str, options) -> dict[str, list[float]]:
    """Seconds per image of the loop and of `predict`, and their ratio."""
    estimator = ready(make(name, tiny=options.tiny), tiny=options.tiny)
    n_images = min(options.images, 2) if name in HEAVY else options.images
    as_they_came = rows_for(estimator, n_images, tiny=options.tiny)
    size = input_size(estimator, as_they_came[0])
    X = rows_for(estimator, n_images, tiny=options.tiny, size=size)
    ways = {"loop": bare_loop(estimator, X), "predict": lambda: run(estimator, X)}
    if size not in (None, SIZE):
        ways["resized"] = lambda: run(estimator, as_they_came)
    in_turns(ways, 1)
    seconds = in_turns(ways, options.turns)
    return {
        "loop": spread([one / n_images for one in seconds["loop"]]),
        "predict": spread([one / n_images for one in seconds["predict"]]),
        "predict_ratio": ratio(seconds["predict"], seconds["loop"]),
        **({"resized_ratio": ratio(seconds["resized"], seconds["loop"])} if "resized" in ways else {}),
    }


# Training -------------------------------------------------------------------------------------------------------------


class Ready(Callback):
    """Keeps the batches that an epoch is trained on."""

    def __init__(self):
        self.batches = []

    def on_batch_begin(self, net, batch=None, training=False, **kwargs):
        """Keep one."""
        if training:
            self.batches.append(batch)


@contextlib.contextmanager
def observed(estimator):
    """Note the images whose views are made, and the batches, of training inside the block."""
    seen, keeper = [], Ready()
    train_view, net_params = estimator._train_view, estimator._net_params

    def view(x, *args):
        seen.append((x, *args))
        return train_view(x, *args)

    def params():
        given = net_params()
        return {**given, "callbacks": [*given.get("callbacks", []), ("ready", keeper)]}

    estimator._train_view, estimator._net_params = view, params
    try:
        yield seen, keeper.batches
    finally:
        del estimator._train_view, estimator._net_params


def trained(name: str, *, tiny: bool, n_rows: int, batch_size: int, **parameters):
    """An estimator after its first epoch, its X and y; None where a method has no epochs."""
    estimator = make(name, tiny=tiny, **{**SHORT, **OWN.get(name, {}), "batch_size": batch_size, **parameters})
    if not hasattr(estimator, "partial_fit") or "max_epochs" not in estimator.get_params():
        return None
    X, y = rows_for(estimator, n_rows, tiny=tiny), np.linspace(1, 5, n_rows)
    return estimator.partial_fit(X, y), X, y


def hand_written(estimator, X, y, *, with_views: bool = True):
    """Give the loop over one epoch: the same views, one after the other, and the same steps on ready tensors."""
    with observed(estimator) as (seen, batches):
        estimator.partial_fit(X, y)
    ready_batches = list(batches)

    def step(net, views, target):
        net.optimizer_.zero_grad()
        with computing(estimator.device_, estimator.precision):
            loss = net.criterion_(net.module_(**views) if isinstance(views, dict) else net.module_(views), target)
        loss.backward()
        net.optimizer_.step()

    def loop():
        net, waiting = estimator.net_, list(seen)
        net.module_.train()
        per_batch = -(-len(waiting) // max(1, len(ready_batches)))
        for views, target in ready_batches:
            for x in waiting[:per_batch] if with_views else ():
                estimator._train_view(*x)
            del waiting[:per_batch]
            views = views if isinstance(views, RowsApart) else to_device(views, net.device)
            step(net, views, to_device(target, net.device))
        estimator.network_.eval()

    return loop


def time_training(name: str, options) -> dict[str, list[float]]:
    """Seconds per epoch of the loop and of `partial_fit`, and their ratio."""
    n_rows = min(options.rows, 4) if name in HEAVY else options.rows
    made = trained(name, tiny=options.tiny, n_rows=n_rows, batch_size=options.batch_size)
    if made is None:
        return {}
    estimator, X, y = made
    ways = {"loop": hand_written(estimator, X, y), "fit": lambda: estimator.partial_fit(X, y)}
    in_turns(ways, 1)
    seconds = in_turns(ways, options.turns)
    return {
        "epoch_loop": spread(seconds["loop"]),
        "epoch": spread(seconds["fit"]),
        "epoch_ratio": ratio(seconds["fit"], seconds["loop"]),
    }


def summary(rows) -> str:
    """Medians over the methods, and who misses the goal."""
    sentences = []
    for what, key, goal in (("predict", "predict_ratio", 1.05), ("training", "epoch_ratio", 1.10)):
        found = {name: row[key][0] for name, row in rows.items() if key in row}
        if found:
            above = ", ".join(name for name, value in found.items() if value > goal) or "none"
            middle = np.median(list(found.values()))
            sentences.append(f"Median of {len(found)} methods, {what}: {middle:.3f}; above {goal}: {above}.")
    return " ".join(sentences)


def main() -> None:
    """Measure and report."""
    command = parser(__doc__, turns=5)
    command.add_argument("--only", nargs="+", choices=estimator_names(), default=estimator_names(), metavar="NAME")
    command.add_argument("--what", nargs="+", choices=["predict", "train"], default=["predict", "train"])
    command.add_argument("--images", type=int, default=8, help="images of 384 x 512 pixels; two for AHIQ and MANIQA")
    command.add_argument("--rows", type=int, default=8, help="rows of an epoch; four for AHIQ and MANIQA")
    command.add_argument("--batch-size", type=int, default=4, help="rows in a batch of training")
    command.add_argument("--tiny", action="store_true", help="the small networks of the tests, to try the script")
    options = command.parse_args()
    columns = {
        "loop, s per image": "loop",
        "predict, s per image": "predict",
        "ratio": "predict_ratio",
        "ratio of 384 x 512, resized": "resized_ratio",
        "loop, s per epoch": "epoch_loop",
        "partial_fit, s per epoch": "epoch",
        "ratio of epochs": "epoch_ratio",
    }
    goal = "predict at most 1.05 of the loop for each method and 1.02 in the median; training at most 1.10."
    title = "predict and training beside a hand-written loop"
    report = Report(__file__, title, goal, columns, options, summary)
    for name in options.only:
        figures = time_predict(name, options) if "predict" in options.what else {}
        report.add(name, **figures, **(time_training(name, options) if "train" in options.what else {}))


if __name__ == "__main__":
    main()
