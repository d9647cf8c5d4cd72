import numpy as np
import pytest

from jaxae.config import DataConfig, ExperimentConfig
from jaxae.data.raw_data import place
from jaxae.detectors import explanation
from jaxae.detectors.judging import LARGEST


def test_the_largest_values_of_float32_still_have_shares():
    found = explanation.leading(np.float32([[LARGEST, LARGEST, 0]]))
    np.testing.assert_allclose(found.share, [[0.5, 0.5, 0]])


def test_the_worst_values_are_named_first_with_their_share():
    residual = np.zeros((2, 4, 5, 1), np.float32)
    residual[0, 1, 2], residual[0, 3, 4] = 3, 1
    found = explanation.leading(residual, 2)
    np.testing.assert_array_equal(found.index[0], [[1, 2, 0], [3, 4, 0]])
    np.testing.assert_allclose(found.share, [[0.75, 0.25], [0, 0]])  # a flawless row has no worst
    assert place(found.index[0, 0], (4, 5, 1)) == "1 2"
    assert explanation.leading(residual[:, :1, 0, 0], 3).share.shape == (2, 1)


@pytest.mark.parametrize(
    ("shape", "name", "word"),
    [((4,), "none", "feature"), ((9, 2), "none", "sample"), ((8, 8, 1), "none", "pixel"),
     ((2, 2, 8), "gradient_cells", "cell"), ((2, 3, 4, 5), "none", "value")],
)  # fmt: skip
def test_what_a_value_is_called(shape, name, word):
    cfg = ExperimentConfig(name="x", data=DataConfig(input=name))
    assert explanation.kind(cfg, shape) == word
