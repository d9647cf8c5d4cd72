import numpy as np
import pytest

from jaxae.reports.studies import detection as costs


@pytest.mark.parametrize("ratio", [0.5, 1.0, 7.0])
@pytest.mark.parametrize("levels", [1, 4, 1000])
def test_no_cut_costs_less_than_the_oracle(ratio, levels):
    generator = np.random.default_rng(levels)
    scores = generator.integers(0, levels, 60).astype(np.float32)  # few levels: ties
    y = generator.random(60) < 0.3
    found = costs.oracle(scores, y, ratio)
    tried = [costs.cost(scores > cut, y, ratio) for cut in [-np.inf, *scores]]
    assert found.cost == pytest.approx(min(tried))
    assert costs.cost(scores > found.threshold, y, ratio) == pytest.approx(found.cost)


def test_costs_by_hand():
    y = np.array([False, False, True, True])
    assert costs.cost(np.array([True, False, False, True]), y, 10.0) == (1 + 10) / 4
    scores = np.float32([0, 3, 1, 4])
    assert costs.oracle(scores, y, 1.0) == (3, 1 / 4)  # misses one, and flags least
    assert costs.oracle(scores, y, 10.0) == (0, 1 / 4)  # one false alarm
    assert costs.oracle(-scores, y, 1e6).threshold == -np.inf  # all are flagged
