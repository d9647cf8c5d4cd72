import numpy as np
import pytest

from jaxae.detectors import health
from jaxae.methods import learners

RNG = np.random.default_rng(0)
SCORES = RNG.random(40).astype(np.float32)
Y = np.arange(40) >= 30


def says(found):
    """The one line of a guard."""
    (line,) = found
    assert "\n" not in line
    return line


def silent(found):
    assert list(found) == []


def test_scores_that_hardly_differ():
    silent(health.constant_scores(SCORES))
    silent(health.constant_scores(100 * SCORES - 50))
    silent(health.constant_scores(SCORES[:1]))
    silent(health.constant_scores(np.round(4 * SCORES)))
    assert "nearly constant" in says(health.constant_scores(7 + 1e-5 * SCORES))
    saturated = np.where(np.arange(40) < 25, np.float32(16), SCORES)
    assert "25 of 40 test rows have the same score, 16" in says(health.constant_scores(saturated))
    assert len(list(health.constant_scores(np.zeros(9, np.float32)))) == 2


def test_a_ranking_below_chance_is_flagged_and_not_flipped():
    silent(health.below_chance(Y + SCORES, Y))
    silent(health.below_chance(0 * SCORES, Y))  # 1/2
    silent(health.below_chance(SCORES, Y | True))
    says(health.below_chance(-SCORES[:2].cumsum(), np.array([False, True])))  # one of each
    line = says(health.below_chance(SCORES - 9 * Y, Y))
    assert "AUROC is 0.0000, below chance" in line
    assert "not flipped" in line


@pytest.mark.parametrize(
    ("values", "word"),
    [
        (np.full(40, 0.3), "d_of_r is 0.3 for all of 40"),
        (5 + 1e-5 * SCORES, "d_of_r is 5 for all"),
        (20 + SCORES, "d_of_r, log-odds, is beyond 15"),
        (-20 - SCORES, "beyond 15"),
    ],
)
def test_a_dead_discriminator(values, word):
    alive = 4 * SCORES - 2
    silent(health.dead_discriminator({"d_of_r": alive[None], "d_of_x": alive[None]}))
    silent(health.dead_discriminator({"d_of_r": np.float32(40 * alive)[None]}))  # of some rows only
    one = {"d_of_r": np.float32(values)[None], "d_of_x": alive[None]}
    assert word in says(health.dead_discriminator(one))
    two = {"d_of_r": np.stack([alive, np.float32(values)])}
    assert "of member 1 is dead" in says(health.dead_discriminator(two))


def test_a_discriminator_is_looked_at_where_there_is_one():
    found = {name: health.log_odds(method) for name, method in learners.METHODS.items()}
    assert found == {"dense": [], "conv": [], "fcn": [], "alocc": ["d_of_r", "d_of_x"]}


def test_units_of_the_code_that_never_fire():
    z = RNG.normal(size=(1, 60, 5)).astype(np.float32)
    silent(health.dead_codes(z))
    silent(health.dead_codes(np.maximum(z, 0)))  # rarely is not never
    silent(health.dead_codes(1e-9 * z))  # small codes are codes
    silent(health.dead_codes(z[:, :1]))
    dead = z * np.float32([0, 1, 1, 0, 1])
    assert says(health.dead_codes(dead)).startswith("2 of 5 latent units are constant over 60")
    dead[:, :, 0] = 3  # a bias without an input
    assert "2 of 5 latent units of member 1" in says(health.dead_codes(np.concatenate([z, dead])))


def params(*members):
    """A kernel and a bias [E, ...], and a parameter that holds nothing."""
    kernel = np.stack([np.full((2, 3), value, np.float32) for value in members])
    return {"dense": {"kernel": kernel, "bias": kernel[:, 0] - 1, "none": kernel[:, :0]}}


def test_parameters_that_did_not_move():
    silent(health.unmoved(params(1, 2), params(3, 4)))
    silent(health.unmoved(params(1), params(np.nextafter(np.float32(1), 2))))
    after = params(3, 4)
    after["dense"]["bias"][1] = params(1, 2)["dense"]["bias"][1]
    line = says(health.unmoved(params(1, 2), after))
    assert line.startswith("1 of 2 parameter arrays of member 1 have not moved")
    assert line.endswith(": dense.bias")
    with pytest.raises(FloatingPointError, match=r"of member 1 has moved.*raise optim\.lr"):
        list(health.unmoved(params(1, 2), params(3, 2)))


def test_members_that_are_one():
    silent(health.identical(params(1)))
    silent(health.identical(params(1, 2, 3)))
    assert says(health.identical(params(1, 2, 1))) == "members 0 and 2 are identical"
    assert len(list(health.identical(params(1, 1, 1)))) == 2
