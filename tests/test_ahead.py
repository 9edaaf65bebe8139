# SPDX-License-Identifier: BSD-3-Clause
"""Work ahead of the network: the order, the errors and the bits of serial work, in bounded memory, whatever ends it."""

import contextlib
import os
import signal
import threading
import time

import joblib
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from torchvision.transforms import v2

from sklearn_iqa import LPIPS, NIMA, QPT, TimmFeatures, make_pairs
from sklearn_iqa._base import ahead as ahead_module
from sklearn_iqa._base.ahead import ahead, n_threads
from sklearn_iqa._base.devices import DrawsFrom
from sklearn_iqa._base.rows import KeptImages, check_images
from sklearn_iqa._base.training import Batches, TrainingSet

RNG = np.random.default_rng(0)
IMAGES = list(RNG.integers(0, 256, (8, 40, 48, 3), dtype=np.uint8))
SMALL = {"backbone": "test_resnet", "backbone_weights": None, "random_state": 0, "device": "cpu"}


def results(*args, **kwargs):
    with contextlib.closing(ahead(*args, **kwargs)) as futures:
        return [future.result() for future in futures]


def our_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("sklearn_iqa")]


@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_results_come_in_order(n):
    def slow_if_even(item):
        time.sleep(0.004 * (item % 2 == 0))
        return item**2

    assert results(slow_if_even, range(20), n) == [item**2 for item in range(20)]
    assert our_threads() == []


def test_work_is_done_while_the_consumer_is_busy():
    done = []
    waiting = ahead(lambda item: done.append(item), range(3), 1)
    next(waiting)
    while len(done) < 2:  # would never end if the second one were made when it is asked for
        time.sleep(0.001)
    waiting.close()


def test_threads_work_side_by_side():
    meeting = threading.Barrier(3, timeout=30)
    results(lambda item: meeting.wait(), range(3), 3)  # raises when they do not meet


@pytest.mark.parametrize("n", [1, 3])
def test_what_lies_ready_is_bounded(monkeypatch, n):
    monkeypatch.setattr(ahead_module, "NUMBERS_AHEAD", 1000)
    begun = []

    def make(item):
        begun.append(item)
        return torch.zeros(125)

    found = []
    for future in ahead(make, range(60), n):
        future.result()
        time.sleep(0.002)
        found.append(len(begun) - len(found))
    assert max(found) <= 1000 // 125 + 1  # and the one that is in use
    assert sorted(begun) == list(range(60))


@pytest.mark.parametrize("n", [0, 1, 4])
def test_the_first_error_in_order_is_raised_and_ends_the_threads(n):
    def fail(item):
        if item in (3, 4):
            time.sleep(0.01 * (item == 3))
            raise ValueError(f"Row {item}")
        return item

    with pytest.raises(ValueError, match="Row 3"):
        results(fail, range(100), n)
    assert our_threads() == []


def test_an_interruption_ends_the_threads():
    made = []

    def interrupt():
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a process of a test runner may ignore it
    threading.Thread(target=interrupt).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            results(lambda item: made.append(item) or time.sleep(0.01), range(1000), 2)
    finally:
        signal.signal(signal.SIGINT, before)
    assert our_threads() == []
    assert len(made) < 500


def test_n_jobs_means_what_it_means_in_scikit_learn():
    gpu = torch.device("cuda")
    assert n_threads(None, gpu) == n_threads(1, gpu) == 1
    assert n_threads(None) == n_threads(1) == 0  # beside a network that takes all cores
    assert n_threads(3) == n_threads(3, gpu) == 3
    assert n_threads(-1, gpu) == joblib.cpu_count()
    with joblib.parallel_config(n_jobs=2):
        assert n_threads(None, gpu) == min(2, joblib.cpu_count())
        assert n_threads(1, gpu) == 1
    with pytest.raises(ValueError, match="n_jobs"):
        NIMA(**SMALL, n_jobs=0).initialize().predict(IMAGES)


def test_threads_compute_alone():
    n_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert results(lambda item: torch.get_num_threads(), [0], 1) == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(n_threads)


# Draws ----------------------------------------------------------------------------------------------------------------

AUGMENT = v2.Compose([v2.RandomResizedCrop(24), v2.ColorJitter(0.4, 0.4, 0.4, 0.1), v2.GaussianBlur(3)])
DRAWS = {
    "rand": lambda: torch.rand(2),
    "randint": lambda: torch.randint(1000, (2,)),
    "randn": lambda: torch.randn(2),
    "randperm": lambda: torch.randperm(50),
    "normal": lambda: torch.normal(0.0, torch.ones(2)),
    "bernoulli": lambda: torch.bernoulli(torch.full((64,), 0.5)),
    "multinomial": lambda: torch.multinomial(torch.ones(99), 20),
    "uniform_": lambda: torch.empty(2).uniform_(),
    "torchvision": lambda: AUGMENT(torch.from_numpy(IMAGES[0]).movedim(-1, 0)),
}


@pytest.mark.parametrize("name", DRAWS)
def test_draws_come_from_the_seed_alone(name):
    def drawn(seed):
        with DrawsFrom(seed):
            return DRAWS[name]()

    state = torch.get_rng_state()
    expected = [drawn(seed) for seed in range(12)]
    for found, one in zip(results(drawn, range(12), 4), expected, strict=True):
        assert torch.equal(found, one)
    assert not all(torch.equal(expected[0], one) for one in expected)
    assert torch.equal(state, torch.get_rng_state())


def test_batches_do_not_depend_on_threads_or_on_what_the_network_draws():
    def view(row):
        return torch.rand(3) + row

    def batches(n, drawing):
        data = TrainingSet(view, np.arange(10.0), np.arange(10), seed=5, epoch=2)
        for views, targets in Batches(data, [[3, 1], [(2, 5), (7, 2)], [9]], n):
            torch.rand(drawing)
            yield views, targets

    expected = list(batches(0, 0))
    assert [tuple(views.shape) for views, _ in expected] == [(2, 3), (2, 2, 3), (1, 3)]
    assert [targets.tolist() for _, targets in expected] == [[3, 1], [[2, 5], [7, 2]], [9]]
    for n in (1, 2, 4):
        for one, other in zip(batches(n, 7), expected, strict=True):
            assert all(map(torch.equal, one, other))


def test_views_of_unequal_shape_are_refused():
    data = TrainingSet(lambda row: torch.zeros(row + 1), np.zeros(3), np.arange(3))
    with pytest.raises(ValueError, match=r"shapes \(1,\) and \(2,\)"):
        list(Batches(data, [[0, 1]]))


# Estimators -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def paths(tmp_path):
    names = [str(tmp_path / f"{number}.png") for number in range(len(IMAGES))]
    for name, image in zip(names, IMAGES, strict=True):
        Image.fromarray(image).save(name)
    return names


ESTIMATORS = {
    "NIMA": NIMA(**SMALL, max_epochs=2, batch_size=3),
    "LPIPS": LPIPS(net="squeeze", backbone_weights=None, random_state=0, device="cpu", max_epochs=1, crop_size=32),
    "QPT": QPT(**SMALL, max_epochs=2, batch_size=4, crop_size=32, n_crops=2, queue_size=8, lr=0.1),
    "TimmFeatures": TimmFeatures(**SMALL),
}


def fitted(name, paths, n_jobs=None):
    X = make_pairs(paths, paths[::-1]) if name == "LPIPS" else paths
    return clone(ESTIMATORS[name]).set_params(n_jobs=n_jobs).fit(X, np.arange(8.0)), X


def output(estimator, X, **how):
    return estimator.predict(X, **how) if hasattr(estimator, "predict") else estimator.transform(X, **how)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_first_wrong_row_is_named(name, paths):
    for n_jobs in (1, 3):
        estimator, X = fitted(name, paths, n_jobs)
        broken = [*X[:2], *make_pairs([b"x"], [b"x"]), *X[3:5], *make_pairs(["nowhere.png"], ["nowhere.png"])]
        if name != "LPIPS":
            broken = [one[0] if isinstance(one, tuple) else one for one in broken]
        with pytest.raises(TypeError, match=r"[rR]ow 2 of X"):
            output(estimator, broken)
        with pytest.warns(UserWarning, match=r"^2 of 6 rows of X .* \(row 2, 5\); the first error: .*[rR]ow 2 of X"):
            found = output(estimator, broken, on_error="nan")
        assert np.isnan(found.reshape(6, -1)).any(1).tolist() == [False, False, True, False, False, True]
    assert our_threads() == []


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_inside_jobs_of_joblib(backend, paths):
    estimator, X = fitted("NIMA", paths)
    expected = estimator.predict(X)
    with joblib.parallel_config(backend, n_jobs=2):
        for found in joblib.Parallel()(joblib.delayed(estimator.predict)(X) for _ in range(3)):
            np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(estimator.predict(X), expected)  # None takes the two


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only processes of POSIX fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_in_the_middle_is_no_deadlock(paths):
    features, X = TimmFeatures(**SMALL).fit(paths), paths
    nima, _ = fitted("NIMA", paths, 2)
    running = nima.predict_iter(X)
    next(running)
    child = os.fork()
    if child == 0:  # what must not hang is the opening of images; torch's own threads do not outlive a fork
        torch.set_num_threads(1)
        rows = check_images(X)
        os._exit(results(lambda row: rows[row].shape, range(8), 2) != [(40, 48, 3)] * 8)
    deadline = time.monotonic() + 60
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    if ended == (0, 0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert ended[1] == 0
    assert len(list(running)) == 7
    assert len(features.transform(X)) == 8


# Images that stay open ------------------------------------------------------------------------------------------------


def test_files_are_opened_once_in_training(paths, monkeypatch):
    opened = []
    really = Image.open
    monkeypatch.setattr(Image, "open", lambda path, *args: opened.append(path) or really(path, *args))
    clone(ESTIMATORS["NIMA"]).set_params(max_epochs=4).fit(paths, np.arange(8.0))
    assert sorted(opened) == paths


def test_kept_images_are_bounded(paths):
    keep = KeptImages(2 * IMAGES[0].nbytes)
    for _ in range(2):
        for path, image in zip(paths, IMAGES, strict=True):
            np.testing.assert_array_equal(keep(path, "it"), image)
    assert sorted(keep.images) == paths[:2]
    assert keep(IMAGES[0], "it") is IMAGES[0]
