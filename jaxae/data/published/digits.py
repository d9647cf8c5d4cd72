"""scikit-learn's digits, which need no download."""

import numpy as np

from jaxae.data.raw_data import Raw

_SIDE = 28  # of the resized digits
_TEST = 0.3  # about 54 test digits per class, enough for a steady AUROC


def load() -> Raw:
    """scikit-learn's bundled 1,797 handwritten digits, resized to [28, 28, 1] in [0, 1].

    Values / 16 (Alpaydin and Kaynak, UCI optical recognition of handwritten digits), enlarged from
    8 x 8 by bilinear interpolation. The bundle has no official split: 30 % of every class are the
    test rows, drawn once and for all, in the order of the bundle.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    grow = _interpolation(bunch.images.shape[1], _SIDE)
    x = np.clip(grow @ (bunch.images / 16.0) @ grow.T, 0.0, 1.0).astype(np.float32)[..., None]
    y = bunch.target.astype(np.int32)
    rows = train_test_split(np.arange(len(y)), test_size=_TEST, random_state=0, stratify=y)
    train, test = map(np.sort, rows)
    return Raw(x[train], y[train], x[test], y[test], normal=(0,))


def _interpolation(small: int, large: int) -> np.ndarray:
    """Weights [large, small] of linear interpolation between pixel centres, edges repeated."""
    at = np.clip((np.arange(large) + 0.5) * small / large - 0.5, 0, small - 1)
    return np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(small)))
