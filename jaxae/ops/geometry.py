"""The static part of a convolution: sizes, strides, padding, form."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from jax import lax

from jaxae.ops.forms import Form, current

Size = tuple[int, int]
Padding = Literal["SAME", "VALID"] | Sequence[tuple[int, int]]


def ceil_div(a: int, b: int) -> int:
    """Divide a by b and round up."""
    return -(-a // b)


class Geometry(NamedTuple):
    """The static part of one convolution x -> y; hashable.

    A transposed convolution y -> x has the geometry of the convolution that it mirrors.
    """

    in_size: Size  # of x
    kernel_size: Size
    strides: Size
    padding: tuple[tuple[int, int], tuple[int, int]]
    form: Form

    @property
    def out_size(self) -> Size:
        """Height and width of y."""
        spans = zip(self.in_size, self.kernel_size, self.strides, self.padding, strict=True)
        height, width = ((size + lo + hi - k) // s + 1 for size, k, s, (lo, hi) in spans)
        return height, width

    @property
    def is_full_window(self) -> bool:
        """Whether one window covers the whole input: then this is a plain matrix product."""
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


def resolve(in_size, kernel_size, strides, padding: Padding) -> Geometry:
    """The geometry of a convolution in the current form; SAME and VALID are converted to pixels.

    Raises:
      ValueError: the kernel does not fit into the padded input.
    """
    in_size, kernel_size, strides = tuple(in_size), tuple(kernel_size), tuple(strides)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(in_size, kernel_size, strides, padding.upper())
    padding = tuple((int(lo), int(hi)) for lo, hi in padding)
    geo = Geometry(in_size, kernel_size, strides, padding, current())
    if min(geo.out_size) < 1:
        raise ValueError(f"a {kernel_size} kernel does not fit into {in_size} padded by {padding}")
    return geo
