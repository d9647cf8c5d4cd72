import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from jaxae.data.corruptions import CORRUPTIONS, applicable, corrupt, severity_grid
from jaxae.errors import UserError
from jaxae.rng import Purpose, stream

pytestmark = pytest.mark.device

ALL = [(name, "images") for name in applicable((8, 8, 1))]
ALL += [(name, "series") for name in applicable((30, 2))]


def rows(kind):
    """One size each for the whole file, so that every corruption is compiled once."""
    shape = {"images": (9, 7, 2), "series": (30, 2)}[kind]
    return np.random.default_rng(0).random((24, *shape), np.float32)


def test_every_corruption_is_tested_on_what_it_fits():
    assert {name for name, _ in ALL} == set(CORRUPTIONS)
    assert applicable((5,)) == ("noise",)


@pytest.mark.parametrize(("name", "kind"), ALL)
def test_battery(name, kind):
    x, grid = rows(kind), CORRUPTIONS[name].severities
    np.testing.assert_allclose(corrupt(f"{name}:0", x, 3), x, rtol=0, atol=1e-6)
    changed = []
    for severity in grid:
        y = corrupt(f"{name}:{severity}", x, 3)
        assert y.shape == x.shape
        assert y.dtype == np.float32
        assert np.isfinite(y).all()
        if kind == "images":
            assert y.min() >= -1e-6
            assert y.max() <= 1 + 1e-6
        np.testing.assert_array_equal(y, corrupt(f"{name}:{severity}", x, 3))
        changed.append(np.abs(y - x).mean())
    assert min(changed[1:]) > 0
    assert changed[-1] > changed[0]
    # A row's outcome depends on its own content and position only.
    other = np.concatenate([x[:2], 1 - x[2:]])
    np.testing.assert_allclose(
        corrupt(f"{name}:{grid[2]}", other, 3)[:2],
        corrupt(f"{name}:{grid[2]}", x, 3)[:2],
        atol=1e-6,
    )


@pytest.mark.parametrize("name", ["noise", "noise_rescaled", "occlusion", "shift"])
def test_rows_and_seeds_draw_differently(name):
    x = np.repeat(rows("images")[:1], 24, axis=0)
    spec = f"{name}:{CORRUPTIONS[name].severities[2]}"
    y = corrupt(spec, x, 0)
    assert len({row.tobytes() for row in y}) > 3
    assert (y != corrupt(spec, x, 1)).any()


@pytest.mark.parametrize("quarters", [-1, 0, 1, 2, 3, 4])
def test_quarter_turns_are_those_of_numpy(quarters):
    x = np.random.default_rng(1).random((3, 8, 8, 1), np.float32)
    expected = np.rot90(x, quarters, axes=(1, 2))
    np.testing.assert_allclose(corrupt(f"rotation:{90 * quarters}", x, 0), expected, atol=1e-5)


def test_half_a_turn_of_a_rectangle():
    x = rows("images")
    np.testing.assert_allclose(corrupt("rotation:180", x, 0), x[:, ::-1, ::-1], atol=1e-5)


def test_image_corruptions_do_what_they_say():
    x = rows("images")
    np.testing.assert_allclose(corrupt("negative:1", x, 0), 1 - x, atol=1e-6)
    np.testing.assert_allclose(
        corrupt("contrast:1", x, 0),
        np.broadcast_to(x.mean((1, 2, 3), keepdims=True), x.shape),
        atol=1e-6,
    )
    np.testing.assert_allclose(
        corrupt("blur:1.5", x, 0), gaussian_filter(x, (0, 1.5, 1.5, 0)), atol=1e-4
    )
    rescaled = corrupt("noise_rescaled:0.05", x, 0)
    np.testing.assert_allclose(rescaled.min((1, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(rescaled.max((1, 2, 3)), 1, atol=1e-6)
    grey = np.full(x.shape, 0.5, np.float32)
    assert abs((corrupt("noise:0.05", grey, 0) - grey).std() - 0.05) < 2e-3
    hidden = corrupt("occlusion:0.4", x, 0) == 0
    np.testing.assert_array_equal(hidden.sum((1, 2)), 9)  # round(.4 * 7) = 3
    for axis in (1, 2):  # up to the very borders
        assert np.moveaxis(hidden, axis, 0).any((1, 2, 3)).all()
    moved = corrupt("shift:2", x, 0)
    ways = [
        np.pad(x, ((0, 0), (2, 0), (0, 0), (0, 0)))[:, :9],
        np.pad(x, ((0, 0), (0, 2), (0, 0), (0, 0)))[:, 2:],
        np.pad(x, ((0, 0), (0, 0), (2, 0), (0, 0)))[:, :, :7],
        np.pad(x, ((0, 0), (0, 0), (0, 2), (0, 0)))[:, :, 2:],
    ]
    which = np.stack([np.abs(w - moved).max((1, 2, 3)) < 1e-6 for w in ways])
    np.testing.assert_array_equal(which.sum(0), 1)
    assert which.any(1).all()


def test_series_corruptions_do_what_they_say():
    x = rows("series")
    assert np.abs(corrupt("noise:3", x, 0)).max() > 5  # not clipped
    wander = corrupt("drift:0.5", x, 0) - x
    assert np.abs(wander).max() <= 0.5 + 1e-5
    assert np.abs(np.diff(wander, axis=1)).max() < 0.5 * 2 * np.pi * 2 / 29 + 1e-5
    held = corrupt("dropout:0.2", x, 0)
    for row, original in zip(held, x, strict=True):
        still = np.flatnonzero((np.diff(row, axis=0) == 0).all(1))
        np.testing.assert_array_equal(still, still[0] + np.arange(5))  # 6 equal samples
        start, stop = still[0], still[-1] + 2
        np.testing.assert_array_equal(row[start], original[start])
        np.testing.assert_array_equal(row[:start], original[:start])
        np.testing.assert_array_equal(row[stop:], original[stop:])
    np.testing.assert_array_equal(corrupt("dropout:1", x, 0), np.broadcast_to(x[:, :1], x.shape))
    ramp = np.broadcast_to(np.arange(30, dtype=np.float32)[None, :, None], x.shape)
    warped = corrupt("time_warp:0.9", ramp, 0)
    assert np.diff(warped, axis=1).min() > 0
    np.testing.assert_allclose(warped[:, [0, -1]], ramp[:, [0, -1]], atol=1e-4)
    assert len({row.tobytes() for row in np.round(warped)}) == 4  # one or two periods, two signs


@pytest.mark.parametrize(
    ("kind", "names"),
    [("images", ("rotation", "noise", "occlusion")), ("series", ("time_warp", "noise"))],
)
def test_grid_holds_what_single_corruptions_give(kind, names):
    x = rows(kind)
    severities = np.array([CORRUPTIONS[n].severities for n in names])
    compiled = jax.jit(severity_grid, static_argnames="names")
    grid = compiled(names, x, stream(5, Purpose.CORRUPTION), severities)
    assert grid.shape == (*severities.shape, *x.shape)
    for i, name in enumerate(names):
        for j in (0, 3):
            np.testing.assert_allclose(
                grid[i, j], corrupt(f"{name}:{severities[i, j]}", x, 5), atol=1e-5
            )


def test_grid_can_be_part_of_a_compiled_function():
    x, key = rows("series"), stream(0, Purpose.CORRUPTION)
    grid = np.array([[0.0, 2.0]])
    worst = jax.jit(lambda x: jnp.max(severity_grid(("drift",), x, key, grid), (0, 2, 3, 4)))
    np.testing.assert_allclose(worst(x)[0], x.max(), rtol=1e-6)
    assert worst(x)[1] > 1.5


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        ("rotate:90", "images", "unknown corruption 'rotate'; known: blur, contrast"),
        ("rotation:90", "series", r"works on images, not on rows of shape \(30, 2\)"),
        ("drift:1", "images", "works on series"),
        ("rotation", "images", "needs a severity in degrees from -inf to inf, as rotation:30"),
        ("noise:-1", "images", "needs a severity in std from 0 to inf"),
        ("negative:2", "images", "from 0 to 1"),
        ("blur:nan", "images", "from 0 to 3"),
        ("shift:inf", "images", "from 0 to inf"),
    ],
)
def test_impossible_corruptions_are_refused(spec, kind, message):
    with pytest.raises(UserError, match=message):
        corrupt(spec, rows(kind), 0)
