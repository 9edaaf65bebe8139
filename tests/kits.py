# SPDX-License-Identifier: BSD-3-Clause
"""Parity kits: stand-in weights and images that everybody can make from names, shapes and a seed.

A kit (`tests/parity/<name>.json`) holds the numbers that the official code gives with these weights on these images.
"""

import json
import math
import os
import zlib
from pathlib import Path

import numpy as np
import torch

from sklearn_iqa._weights import state_dicts

FOLDER = Path(__file__).parent / "parity"


def read(name: str) -> dict:
    """Read the kit `name`."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def fill_tensor(name: str, shape, seed: int) -> np.ndarray:
    """Float32 numbers that depend on a tensor's name, shape and the seed alone."""
    rng = np.random.default_rng([zlib.crc32(name.encode()), seed])
    kind = name.rpartition(".")[2]
    if kind == "running_var":
        values = rng.uniform(0.5, 1.5, shape)
    elif kind == "running_mean":
        values = rng.normal(0.0, 0.1, shape)
    elif len(shape) >= 2:  # matrices and kernels: variance one over the fan-in
        values = rng.normal(0.0, np.sqrt(1.0 / max(math.prod(shape[1:]), 1)), shape)
    elif kind == "weight":  # gains
        values = 1.0 + 0.1 * rng.normal(size=shape)
    else:
        values = 0.1 * rng.normal(size=shape)
    return values.astype(np.float32)


def fill(kit: dict, manifest=None, seed: int | None = None) -> dict[str, torch.Tensor]:
    """The official state dict of a kit, filled; what the kit keeps at its constructed value is left out."""
    seed = kit.get("seed", kit.get("weights_seed", 0)) if seed is None else seed
    kept = {*kit.get("keep", ()), *(name for name in kit.get("keep_constructor_values", ()) if " " not in name)}
    if any("*.filt" in name for name in kit.get("keep_constructor_values", ())):
        kept |= {name for name, _, _ in manifest or kit["manifest"] if name.endswith(".filt")}
    state = {}
    for name, shape, dtype in manifest or kit["manifest"]:
        if name in kept or not dtype.startswith(("float", "torch.float", "bfloat", "torch.bfloat", "torch.half")):
            continue  # constants and integer tables
        values = fill_tensor(name, tuple(shape), seed)
        if len(shape) >= 2:
            values = values * np.float32(kit.get("weight_scale", 1))
        scale = np.float32(kit.get("tensor_scale", {}).get(name, 1))
        state[name] = torch.from_numpy(np.asarray(values * scale))
        if name in kit.get("overrides", {}):
            state[name] = torch.full(shape, kit["overrides"][name])
    return state


def images(seed: int = 0, sizes=((384, 512), (427, 640))) -> list[np.ndarray]:
    """Smooth coloured uint8 images with texture: sums of six waves per channel, and noise."""
    made = []
    for number, (height, width) in enumerate(sizes):
        rng = np.random.default_rng([seed, number, height, width])
        y, x = np.mgrid[0:height, 0:width].astype(np.float64)
        image = np.empty((height, width, 3))
        for channel in range(3):
            frequency, phase = rng.uniform(0.005, 0.05, (6, 2)), rng.uniform(0, 2 * np.pi, 6)
            amplitude = rng.uniform(0.2, 1.0, 6)
            waves = sum(
                a * np.sin(2 * np.pi * (f[0] * y + f[1] * x) + p)
                for a, f, p in zip(amplitude, frequency, phase, strict=True)
            )
            image[..., channel] = waves / amplitude.sum()
        image += 0.08 * rng.normal(size=image.shape)
        made.append(np.clip(np.rint(127.5 + 100.0 * image), 0, 255).astype(np.uint8))
    return made


def load(estimator, state) -> None:
    """Give an estimator the network of an official state dict, strictly, under the official names."""
    estimator.initialize()
    kept = estimator.network_.state_dict()
    state = state_dicts.rename_keys(state, estimator.key_map)
    # What a kit leaves out are constants and tables, which must exist here with the value of the constructor.
    constants = {name: value for name, value in kept.items() if name not in state}
    state_dicts.load_state(estimator.network_, {**constants, **state}, origin="the kit")


def distorted_pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs (query, reference) of the LPIPS and ST-LPIPS kits, in the order image 0 A, 0 B, 1 A, 1 B."""
    pairs = []
    for number, image in enumerate(images(0)):
        reference = image[:192, :256]
        shifted = 0.7 * reference + 0.3 * np.roll(reference.astype(np.float64), 4, axis=1)
        noise = 10.0 * np.random.default_rng([0, number, 77]).normal(size=reference.shape)
        pairs.append((np.clip(np.rint(shifted + noise), 0, 255).astype(np.uint8), reference))
        pairs.append(((reference // 32) * 32 + 16, reference))
    return pairs


def assert_parity(kit: str, what: str, got, want, *, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Compare with a kit's numbers; with SKLEARN_IQA_PARITY_TABLE set, note the largest difference in that file."""
    got, want = np.asarray(got, dtype=np.float64), np.asarray(want, dtype=np.float64)
    assert got.shape == want.shape, f"{kit} {what}: shape {got.shape} instead of {want.shape}"
    difference = np.abs(got - want)
    table = os.environ.get("SKLEARN_IQA_PARITY_TABLE")
    if table:
        relative = float((difference / np.maximum(np.abs(want), 1e-12)).max())
        with open(table, "a", encoding="utf-8") as file:
            file.write(f"{kit},{what},{difference.max():.3g},{relative:.3g},{rtol:g},{atol:g}\n")
    np.testing.assert_allclose(got, want, rtol=rtol, atol=atol, err_msg=f"{kit} {what}")
