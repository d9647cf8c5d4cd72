"""Convert weights between Keras and Flax: the layouts are the same, the names differ.

Keras pads 'same' convolutions on the right. S1 comes from PyTorch, which pads on the left; written
in native Keras it is the mirror image of the published network, so its images and kernels are
flipped along both spatial axes (see `torch_weights` for the opposite case).
"""

import keras
import numpy as np

from benchmarks.cases import Case, Weights

MIRRORED = {"mnist_conv_latent"}


def _layers(model, case: Case) -> list[tuple[str, keras.layers.Layer]]:
    stacks = (model.refiner, model.discriminator) if hasattr(model, "refiner") else (model,)
    own = [layer for stack in stacks for layer in stack.layers if layer.weights]
    return list(zip(case.layers, own, strict=True))


def _flip(kernel: np.ndarray, case: Case) -> np.ndarray:
    return kernel[::-1, ::-1] if kernel.ndim == 4 and case.name in MIRRORED else kernel


def _names(layer) -> tuple[str, str]:
    if isinstance(layer, keras.layers.BatchNormalization):
        return "gamma", "scale"
    return "kernel", "kernel"


def load(model, case: Case, new: Weights) -> None:
    """Set a model's parameters from Flax's, and reset its running statistics."""
    for name, layer in _layers(model, case):
        ours, theirs = _names(layer)
        getattr(layer, ours).assign(_flip(new[f"{name}/{theirs}"], case))
        if ours == "gamma":
            layer.beta.assign(new[f"{name}/bias"])
            layer.moving_mean.assign(keras.ops.zeros_like(layer.moving_mean))
            layer.moving_variance.assign(keras.ops.ones_like(layer.moving_variance))
        else:
            layer.bias.assign(new[f"{name}/bias"])


def to_flax(model, case: Case, values: dict) -> Weights:
    """Values by variable path, with Flax's names and layout (Keras's, except for flips)."""
    out = {}
    for name, layer in _layers(model, case):
        ours, theirs = _names(layer)
        bias = layer.beta if ours == "gamma" else layer.bias
        out[f"{name}/{theirs}"] = _flip(values[getattr(layer, ours).path].numpy(), case)
        out[f"{name}/bias"] = values[bias.path].numpy()
    return out
