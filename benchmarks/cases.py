"""The benchmark cases: models of the reference systems with their batch sizes, data and weights.

A case takes its sizes from the experiment of the same name, so the benchmark always measures what
the library runs. Weights are exchanged between frameworks as a flat dictionary of NumPy arrays in
Flax's layout, `{"convs_0/kernel": [kh, kw, in, out], ...}`.
"""

import dataclasses
import importlib
from typing import NamedTuple

import numpy as np
from flax import traverse_util

Weights = dict[str, np.ndarray]


class Case(NamedTuple):
    """One model to measure.

    Attributes:
      name: name of the experiment, `experiments/NAME.py`.
      shape: shape of one row, [H, W, C] or [T, C].
      block: steps between two readings of the clock, about a second's worth on a small CPU. jaxae
        puts as many into one dispatch, Keras into one epoch. For ALOCC it is an epoch of its
        experiment, because its temporaries of 100 MB are allocated anew for every dispatch.
      layers: layers with parameters, in the order of application, named as in Flax's tree.
      method: "" = that of the experiment; another one has no reference system.
    """

    name: str
    shape: tuple[int, ...]
    block: int
    layers: tuple[str, ...]
    method: str = ""

    @property
    def dense(self) -> bool:
        """Whether rows are flattened before the first layer."""
        return self.layers[0].startswith("encoder/")


def _dense(encoder: int, decoder: int) -> tuple[str, ...]:
    return (
        *(f"encoder/Dense_{i}" for i in range(encoder)),
        *(f"decoder/Dense_{i}" for i in range(decoder)),
    )


def _conv(depth: int, middle: tuple[str, ...] = ("to_code", "expand"), head: bool = False):
    return (
        *(f"convs_{i}" for i in range(depth)),
        *middle,
        *(f"deconvs_{i}" for i in range(depth)),
        *(("head",) if head else ()),
    )


def _alocc() -> tuple[str, ...]:
    refiner = []
    for i in range(3):
        refiner += [f"Conv_{i}", f"BatchNorm_{i}"]
    refiner += ["ConvTranspose_0", "BatchNorm_3", "ConvTranspose_1", "BatchNorm_4"]
    refiner += ["ConvTranspose_2"]
    judge = ["Conv_0", "BatchNorm_0", "Conv_1", "BatchNorm_1", "Conv_2", "BatchNorm_2"]
    judge += ["Conv_3", "Dense_0"]
    return (*(f"refiner/{name}" for name in refiner), *(f"discriminator/{name}" for name in judge))


IMAGE = (28, 28, 1)
CASES = {
    case.name: case
    for case in (
        Case("mnist_conv", IMAGE, 64, _conv(2)),
        Case("mnist_conv_latent", IMAGE, 128, _conv(3)),
        Case("fmnist_dense", IMAGE, 512, _dense(1, 1)),
        Case("fmnist_denoise", IMAGE, 128, _conv(2, middle=(), head=True)),
        Case("ecg_dense", (140, 1), 128, _dense(3, 3)),
        Case("fmnist_one_class", IMAGE, 64, _dense(3, 3)),
        Case("mnist_alocc", IMAGE, 48, _alocc()),
    )
}


def config(name: str, **changes):
    """The experiment's configuration with dotted fields changed: `{"train.noise_std": 0.0}`.

    S0 is measured with latent size 32, which its detector uses; its figures use 2.
    """
    cfg = importlib.import_module(f"experiments.{name}").CONFIG
    if name == "mnist_conv":
        changes = {"model.latent": 32, **changes}
    for field, value in changes.items():
        cfg = replace(cfg, field.split("."), value)
    return cfg


def replace(node, path: list[str], value):
    """A nested frozen dataclass with one field, given by its path, changed."""
    inner = value if len(path) == 1 else replace(getattr(node, path[0]), path[1:], value)
    return dataclasses.replace(node, **{path[0]: inner})


def recon_weight(cfg) -> float:
    """ALOCC: the weight of the reconstruction loss relative to the adversarial one."""
    from jaxae.methods.adversarial import ADVERSARIAL

    return ADVERSARIAL[cfg.variant].recon_weight


def rows(case: Case, n: int, seed: int = 0) -> np.ndarray:
    """Synthetic rows [n, *S] float32 in [0, 1]; speed does not depend on their content.

    They are cubes of uniform numbers and therefore dark on average, like digits. With values around
    0.5, the output of an untrained sigmoid, gradients would cancel and comparisons would only see
    rounding errors.
    """
    return np.random.default_rng(seed).random((n, *case.shape), dtype=np.float32) ** 3


def flatten(params) -> Weights:
    """Flax's parameter tree as a flat dictionary of NumPy arrays."""
    return {k: np.asarray(v) for k, v in traverse_util.flatten_dict(params, sep="/").items()}


def unflatten(weights: Weights) -> dict:
    """The inverse of `flatten`."""
    return traverse_util.unflatten_dict(weights, sep="/")
