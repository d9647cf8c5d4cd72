import numpy as np
import pytest

from jaxae.config import DataConfig, ExperimentConfig
from jaxae.data.raw_data import place
from jaxae.detectors import explanation


def test_the_residual_of_members_by_hand():
    x = np.zeros((1, 3), np.float32)
    x_hat = np.array([[[1.0, 0.0, 2.0]], [[3.0, 0.0, 0.0]]], np.float32)
    found = explanation.from_outputs(x, x_hat)
    np.testing.assert_allclose(found.residual, [[5, 0, 2]])
    np.testing.assert_allclose(found.x_hat, [[2, 0, 1]])


def test_an_error_whose_square_leaves_float32_still_has_shares():
    x = np.float32([[1e30, 1e30, 0]])
    found = explanation.leading(
        explanation.from_outputs(x, np.zeros((1, 1, 3), np.float32)).residual
    )
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
