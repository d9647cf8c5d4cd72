"""The static part of a convolution: sizes, strides, padding, layout."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from jax import lax

Size = tuple[int, int]
Padding = Literal["SAME", "VALID"] | Sequence[tuple[int, int]]
Layout = Literal["BHWC", "CHWB"]
Formulation = Literal["auto", "matrix", "native", "library"]


def ceil_div(a: int, b: int) -> int:
    """The quotient a / b, rounded up."""
    return -(-a // b)


class Geometry(NamedTuple):
    """The static part of one convolution x -> y; hashable.

    A transposed convolution y -> x has the geometry of the convolution that it mirrors.
    """

    in_size: Size  # of x
    kernel_size: Size
    strides: Size
    padding: tuple[tuple[int, int], tuple[int, int]]
    layout: Layout = "BHWC"
    form: Formulation = "auto"

    @property
    def out_size(self) -> Size:
        """Height and width of y."""
        spans = zip(self.in_size, self.kernel_size, self.strides, self.padding, strict=True)
        height, width = ((size + lo + hi - k) // s + 1 for size, k, s, (lo, hi) in spans)
        return height, width

    @property
    def is_full_window(self) -> bool:
        """Whether the kernel sees the whole input once: then it is a plain matrix product."""
        return self.kernel_size == self.in_size and self.padding == ((0, 0), (0, 0))

    @property
    def has_mirror(self) -> bool:
        """Whether the transpose of this convolution is a convolution: stride 1, modest padding."""
        fits = zip(self.padding, self.kernel_size, strict=True)
        return self.strides == (1, 1) and all(max(pads) < k for pads, k in fits)

    def mirror(self) -> "Geometry":
        """The convolution that is the transpose of this one, which `has_mirror`."""
        spans = zip(self.kernel_size, self.in_size, self.padding, self.out_size, strict=True)
        padding = tuple((k - 1 - lo, size - 1 + lo - (out - 1)) for k, size, (lo, _), out in spans)
        return self._replace(in_size=self.out_size, padding=padding)


def resolve(in_size, kernel_size, strides, padding: Padding, **kwargs) -> Geometry:
    """The geometry of a convolution, with SAME and VALID turned into numbers of pixels.

    Raises:
      ValueError: the kernel does not fit into the padded input.
    """
    in_size, kernel_size, strides = tuple(in_size), tuple(kernel_size), tuple(strides)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(in_size, kernel_size, strides, padding.upper())
    padding = tuple((int(lo), int(hi)) for lo, hi in padding)
    geo = Geometry(in_size, kernel_size, strides, padding, **kwargs)
    if min(geo.out_size) < 1:
        raise ValueError(f"a {kernel_size} kernel does not fit into {in_size} padded by {padding}")
    return geo


def transposed_size(size: Size, kernel_size: Size, strides: Size, padding: Padding) -> Size:
    """The default output size of a transposed convolution: that of Keras and Flax.

    Stride times the input for SAME, stride times the steps plus the window for VALID (at least the
    stride), and the smallest size that the mirrored convolution maps to `size` for numbers.
    """
    spans = zip(size, kernel_size, strides, strict=True)
    if not isinstance(padding, str):
        padded = zip(spans, padding, strict=True)
        height, width = ((n - 1) * s + k - lo - hi for (n, k, s), (lo, hi) in padded)
    elif padding.upper() == "SAME":
        height, width = (n * s for n, _, s in spans)
    else:
        height, width = ((n - 1) * s + max(k, s) for n, k, s in spans)
    return height, width
