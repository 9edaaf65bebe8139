# SPDX-License-Identifier: BSD-3-Clause
"""Numbers from several threads are those of one: predictions, features, training; shared and own estimators."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from test_common import ESTIMATORS, MOS, fitted, output, rows, tiny, with_unequal_sizes

from sklearn_iqa import TimmFeatures, load_quality_model
from sklearn_iqa._base.devices import seeded
from sklearn_iqa.datasets import load_photographs

N_THREADS = 4
every_estimator = pytest.mark.parametrize("name", ESTIMATORS)


def in_threads(function, arguments, n_threads=N_THREADS):
    """Results in the order of the arguments; the threads begin together."""
    together = threading.Barrier(n_threads)
    with ThreadPoolExecutor(n_threads, initializer=together.wait) as pool:
        return list(pool.map(function, arguments))


def generators():
    return torch.get_rng_state().tolist(), repr(np.random.mtrand._rand.get_state()), random.getstate()


# Predicting -----------------------------------------------------------------------------------------------------------


@every_estimator
def test_one_estimator_serves_four_threads(name):
    estimator, X = fitted(name), list(rows(name)) + with_unequal_sizes(name)
    alone = [output(estimator, [x]) for x in X]
    before = generators()
    for _ in range(2):
        together = in_threads(lambda x: output(estimator, [x]), X)
        for serial, parallel in zip(alone, together, strict=True):
            np.testing.assert_array_equal(parallel, serial)
    assert generators() == before


@every_estimator
def test_weights_are_loaded_once_whichever_thread_comes_first(name, tmp_path):
    if not hasattr(tiny(name), "save_weights") or "weights" not in tiny(name).get_params():
        pytest.skip("keeps no weights in files")
    fitted(name).save_weights(tmp_path / "own.safetensors")
    X = list(rows(name)[:N_THREADS])
    loaded = tiny(name, weights=tmp_path / "own.safetensors")
    alone = [output(clone(loaded), [x]) for x in X]
    for serial, parallel in zip(alone, in_threads(lambda x: output(loaded, [x]), X), strict=True):
        np.testing.assert_array_equal(parallel, serial)


@pytest.mark.usefixtures("lite0_wheel")
def test_default_model_in_threads():
    model, images = load_quality_model(), load_photographs(size=96).images
    alone = [model.predict([image])[0] for image in images]
    assert in_threads(lambda image: model.predict([image])[0], images, 2) == alone
    own = in_threads(lambda image: load_quality_model().predict([image])[0], images, 2)  # the backbone is shared
    assert own == alone


# Training -------------------------------------------------------------------------------------------------------------


@every_estimator
def test_equal_seeds_train_alike_in_four_threads(name):
    X = rows(name)
    alone = output(fitted(name), X)
    before = generators()
    for together in in_threads(lambda estimator: output(estimator.fit(X, MOS), X), [tiny(name) for _ in range(4)]):
        np.testing.assert_array_equal(together, alone)
    assert generators() == before


def features(tmp_path):
    return TimmFeatures(
        "test_resnet", layers=["layer1", "layer3"], backbone_weights=None, random_state=0, cache=tmp_path / "cache"
    )


def test_joblib_threads_give_the_folds_of_a_serial_run(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (16, 48, 48, 3), dtype=np.uint8)
    y = images.mean((1, 2, 3))
    for estimator in (
        make_pipeline(features(tmp_path / "alone"), Ridge()),
        tiny("NIMA", max_epochs=2),
        tiny("HyperIQA", max_epochs=2),
    ):
        alone = cross_val_predict(estimator, images, y, cv=KFold(4))
        if hasattr(estimator, "steps"):  # vectors that another run kept would hide a fault
            estimator = make_pipeline(features(tmp_path / "together"), Ridge())
        with joblib.parallel_config(backend="threading"):
            together = cross_val_predict(estimator, images, y, cv=KFold(4), n_jobs=N_THREADS)
        np.testing.assert_array_equal(together, alone)


def test_dask_worker_with_two_threads_gives_the_serial_numbers(tmp_path):
    distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")
    images = np.random.default_rng(0).integers(0, 256, (12, 48, 48, 3), dtype=np.uint8)
    y = images.mean((1, 2, 3))
    alone = cross_val_predict(make_pipeline(features(tmp_path / "alone"), Ridge()), images, y, cv=KFold(4))
    cluster = distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None)
    with cluster, distributed.Client(cluster), joblib.parallel_config("dask"):
        pipeline = make_pipeline(features(tmp_path / "together"), Ridge())
        together = cross_val_predict(pipeline, images, y, cv=KFold(4), n_jobs=2)
        trained = cross_val_predict(tiny("NIMA"), images, y, cv=KFold(4), n_jobs=2)
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(trained, cross_val_predict(tiny("NIMA"), images, y, cv=KFold(4)))


# Generators -----------------------------------------------------------------------------------------------------------


def test_blocks_with_seeds_wait_for_each_other_and_may_be_nested():
    def draw(seed):
        with seeded(seed):
            first = torch.rand(1000)
            with seeded(7):
                torch.rand(10)
            return torch.cat([first, torch.rand(1000)])

    before = torch.get_rng_state()
    alone = [draw(seed) for seed in range(8)]
    for serial, parallel in zip(alone, in_threads(draw, range(8)), strict=True):
        assert torch.equal(serial, parallel)
    assert torch.equal(torch.get_rng_state(), before)


def test_training_on_the_cpu_seeds_no_other_device(monkeypatch):
    seeds = []
    for module in (torch.cuda, torch.mps):
        for function in ("manual_seed", "manual_seed_all"):
            if hasattr(module, function):
                monkeypatch.setattr(module, function, seeds.append)
    tiny("NIMA").fit(rows("NIMA"), MOS)
    assert seeds == []  # before CUDA is in use a seed would wait for it, and nobody could take it back
