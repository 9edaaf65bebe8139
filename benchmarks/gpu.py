# SPDX-License-Identifier: BSD-3-Clause
"""Speed on a GPU: images per second of `predict` in each precision, with and without compilation, and training steps.

The share is that of a tight loop over the bare network on tensors that are on the GPU already, in the same precision
and compiled alike. "tf32" is float32 with TensorFloat-32 multiplications, as torch's own switches allow them. The share
of time in which training waits for data is what an epoch of `partial_fit` takes beside the same steps on ready tensors.
Run: python benchmarks/gpu.py [--only NAME ...] [--contract]
"""

import os
import subprocess
import sys

import torch
from measuring import TESTS, Report, estimator_names, in_turns, make, parser, ratio, ready, rows_for, run, spread
from overhead import bare_loop, hand_written, trained

PRECISIONS = ("float32", "tf32", "bfloat16")


def set_tf32(on: bool) -> None:
    """Allow or forbid TensorFloat-32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = on


def finished(function, device: str):
    """Give a function that waits until the device has done what it was asked for."""

    def call():
        function()
        if device == "cuda":
            torch.cuda.synchronize()

    return call


def parameters_of(precision: str, compiled: bool, options) -> dict:
    """Parameters of an estimator for one column; sets torch's switches."""
    set_tf32(precision == "tf32")
    given = {"device": options.device, "precision": "bfloat16" if precision == "bfloat16" else "float32"}
    return {**given, "compile": compiled}


def time_predict(name: str, precision: str, compiled: bool, options) -> dict[str, list[float]]:
    """Images per second, and the share of the bare network's speed."""
    estimator = make(name, tiny=options.tiny, **parameters_of(precision, compiled, options))
    estimator = ready(estimator, tiny=options.tiny)
    X = rows_for(estimator, options.images, tiny=options.tiny)
    run(estimator, X)  # compiles
    loop = bare_loop(estimator, X, options.device)
    ways = {"loop": finished(loop, options.device), "predict": finished(lambda: run(estimator, X), options.device)}
    in_turns(ways, 1)
    seconds = in_turns(ways, options.turns)
    return {
        "rate": spread([len(X) / one for one in seconds["predict"]]),
        "share": ratio(seconds["loop"], seconds["predict"]),
    }


def time_training(name: str, precision: str, options) -> dict[str, list[float]]:
    """Seconds of a training step, and the share of time that waits for data."""
    given = parameters_of(precision, False, options)
    made = trained(name, tiny=options.tiny, n_rows=options.rows, batch_size=options.batch_size, **given)
    if made is None:
        return {}
    estimator, X, y = made
    before = estimator.n_steps_
    steps = hand_written(estimator, X, y, with_views=False)
    n_steps = estimator.n_steps_ - before
    ways = {
        "steps": finished(steps, options.device),
        "epoch": finished(lambda: estimator.partial_fit(X, y), options.device),
    }
    in_turns(ways, 1)
    seconds = in_turns(ways, options.turns)
    waits = [max(0.0, 1 - busy / whole) for busy, whole in zip(seconds["steps"], seconds["epoch"], strict=True)]
    return {"step": spread([one / n_steps for one in seconds["epoch"]]), "waits": spread(waits)}


def contract(device: str) -> str:
    """Last line of the tests of the contract, run on the device."""
    settings = {**os.environ, "SKLEARN_IQA_TEST_DEVICE": device}
    command = [sys.executable, "-m", "pytest", "-q", str(TESTS / "test_common.py")]
    found = subprocess.run(command, env=settings, cwd=TESTS.parent, capture_output=True, text=True, check=False)
    return found.stdout.strip().splitlines()[-1]


def main() -> None:
    """Measure and report."""
    command = parser(__doc__, turns=5)
    command.add_argument("--only", nargs="+", choices=estimator_names(), default=estimator_names(), metavar="NAME")
    command.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    command.add_argument("--compiled", nargs="+", choices=["no", "yes"], default=["no", "yes"])
    command.add_argument("--images", type=int, default=64, help="decoded images of 384 x 512 pixels")
    command.add_argument("--rows", type=int, default=64, help="rows of an epoch; 0 leaves training out")
    command.add_argument("--batch-size", type=int, default=16, help="rows in a batch of training")
    command.add_argument("--device", default="cuda", help="cpu tries the script out")
    command.add_argument("--contract", action="store_true", help="also run the tests of the contract there")
    command.add_argument("--tiny", action="store_true", help="the small networks of the tests")
    options = command.parse_args()
    columns = {
        "images per second": "rate",
        "share of the bare network": "share",
        "s per training step": "step",
        "share of time that waits for data": "waits",
    }
    report = Report(__file__, "speed on a GPU", "95 % of the bare network's speed.", columns, options)
    if options.device == "cuda" and not torch.cuda.is_available():
        if not report.file.exists():  # figures from a machine that has one stay
            report.add("not run", rate="this machine has no GPU")
        return
    if options.contract:
        report.add("tests of the contract", rate=contract(options.device))
    for name in options.only:
        for precision in options.precisions:
            for compiled in options.compiled:
                figures = time_predict(name, precision, compiled == "yes", options)
                if options.rows and compiled == "no":
                    figures |= time_training(name, precision, options)
                report.add(f"{name}, {precision}{', compiled' * (compiled == 'yes')}", **figures)


if __name__ == "__main__":
    main()
