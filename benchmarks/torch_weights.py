"""Convert weights between PyTorch's layout and Flax's.

PyTorch pads a strided convolution on the left, TensorFlow on the right. Written in native PyTorch
(`padding=k // 2`, `output_padding=1`), a network of 'same' layers is therefore the *mirror image*
of the published one: it gives the same numbers if images and kernels are flipped along both spatial
axes. Flipping them here keeps the PyTorch code native and the comparison exact.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from benchmarks.cases import Case, Weights

MIRRORED = {"mnist_conv", "fmnist_denoise", "mnist_alocc"}
# Dense layers that read or write a feature map, flat: PyTorch orders it (C, H, W), Flax (H, W, C).
FLAT = {
    "mnist_conv": {"to_code": ("in", (7, 7, 64)), "expand": ("out", (7, 7, 64))},
    "mnist_alocc": {"discriminator/Dense_0": ("in", (2, 2, 128))},
}


def _layers(net: nn.Module, case: Case) -> list[tuple[str, nn.Module]]:
    own = [m for m in net.modules() if list(m.parameters(recurse=False))]
    return list(zip(case.layers, own, strict=True))


def _flat_order(case: Case, name: str) -> tuple[str, np.ndarray | None]:
    """The side of a dense layer that is a feature map, and Flax's index of each PyTorch index."""
    side, shape = FLAT.get(case.name, {}).get(name, ("", None))
    if shape is None:
        return side, None
    index = np.arange(np.prod(shape)).reshape(shape)
    index = index[::-1, ::-1] if case.name in MIRRORED else index
    return side, index.transpose(2, 0, 1).ravel()


def load(net: nn.Module, case: Case, new: Weights) -> None:
    """Set a network's parameters from Flax's, and reset its running statistics."""
    for name, layer in _layers(net, case):
        bias = new[f"{name}/bias"]
        if isinstance(layer, nn.BatchNorm2d):
            weight = new[f"{name}/scale"]
            layer.reset_running_stats()
        elif isinstance(layer, nn.Linear):
            weight, (side, order) = new[f"{name}/kernel"], _flat_order(case, name)
            weight = weight[order] if side == "in" else weight
            weight, bias = (weight[:, order], bias[order]) if side == "out" else (weight, bias)
            weight = weight.T
        else:  # [kh, kw, in, out] -> [out, in, kh, kw]; a transposed one is its convolution's
            weight = new[f"{name}/kernel"].transpose(3, 2, 0, 1)
            weight = weight[..., ::-1, ::-1] if case.name in MIRRORED else weight
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(np.array(weight, order="C")))
            layer.bias.copy_(torch.from_numpy(np.array(bias)))


def weights(net: nn.Module, case: Case, of: Callable = lambda p: p) -> Weights:
    """Parameters, or `of` applied to each, with Flax's names and layout."""
    out = {}
    for name, layer in _layers(net, case):
        weight, bias = (of(p).detach().float().cpu().numpy() for p in (layer.weight, layer.bias))
        if isinstance(layer, nn.BatchNorm2d):
            key = "scale"
        elif isinstance(layer, nn.Linear):
            key, weight, (side, order) = "kernel", weight.T, _flat_order(case, name)
            back = None if order is None else np.argsort(order)
            weight = weight[back] if side == "in" else weight
            weight, bias = (weight[:, back], bias[back]) if side == "out" else (weight, bias)
        else:
            key = "kernel"
            weight = weight[..., ::-1, ::-1] if case.name in MIRRORED else weight
            weight = weight.transpose(2, 3, 1, 0)
        out |= {f"{name}/{key}": weight, f"{name}/bias": bias}
    return out
