"""Scores of patches: where a texture differs, it differs on the map, and nowhere else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import dataset, tiny

from jaxae import detectors, scoring
from jaxae.errors import UserError
from jaxae.scoring import patches
from jaxae.types import Inferred, Outputs

SIDE = 48


def textured(n, seed=0, channels=1, side=SIDE):
    """Diagonal waves at random phases, with noise: a texture without a place of its own."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:side, :side]
    waves = np.sin((row + column)[None] / 2.2 + rng.uniform(0, 6, (n, 1, 1)))
    x = 0.5 + 0.2 * waves[..., None] + 0.03 * rng.standard_normal((n, side, side, channels))
    return x.astype(np.float32)


def rows_of(x):
    x = jnp.asarray(x)
    return Inferred(x, Outputs(x, x[:, 0, 0], {"code": x[:, ::8, ::8]}))


def maps(fitted, x):
    score = scoring.resolve("patches")
    return np.asarray(jax.jit(jax.vmap(score.places, (None, 0)))(fitted, rows_of(x)))


@pytest.fixture(scope="module")
def fitted():
    return scoring.resolve("patches").fit([rows_of(textured(12))])


def test_the_map_is_largest_where_a_defect_is(fitted):
    x = textured(4, seed=1)
    x[0, 12:20, 24:36] = x[0, 12:20, 24:36].mean()  # the structure is missing
    x[1, 30:38, 8:18] += 0.25  # a stain
    x[2, 20:30, 20:30] = x[2, 20:30, 20:30][::-1]  # another direction
    found = maps(fitted, x)
    for i, (top, bottom, left, right) in enumerate(
        [(12, 20, 24, 36), (30, 38, 8, 18), (20, 30, 20, 30)]
    ):
        row, column = np.argwhere(found[i] == found[i].max())[0] * patches.STRIDE + 1.5
        assert top - 3 <= row <= bottom + 3, i
        assert left - 3 <= column <= right + 3, i
    assert found[:3].max(axis=(1, 2)).min() > 2 * found[3].max()
    borders = np.concatenate([found[3][[0, -1]].ravel(), found[3][:, [0, -1]].ravel()])
    assert borders.max() < 2 * found[3, 2:-2, 2:-2].max()  # normal borders stay normal


def test_a_map_moves_with_the_image_away_from_borders(fitted):
    x = textured(1, seed=2, side=120)[0]
    x[52:60, 52:60] = 0.9
    one, two = maps(fitted, np.stack([x[:96, :96], x[8:104, 4:100]]))  # 2 and 1 patches further
    np.testing.assert_allclose(two[9:15, 9:15], one[11:17, 10:16], rtol=0.02)
    assert np.argmax(one) - np.argmax(two) == 2 * 24 + 1


def test_mapped_rows_are_the_single_ones_at_any_size():
    score = scoring.resolve("patches")
    x = textured(3, channels=3)[:, :18, :31]
    state = score.fit([rows_of(x)])
    other = rows_of(textured(3, seed=5, channels=3)[:, :18, :31])
    mapped = jax.jit(jax.vmap(score.places, (None, 0)))(state, other)
    assert mapped.shape == (3, 5, 8)
    place = jax.jit(score.places)
    alone = [place(state, jax.tree.map(lambda leaf, i=i: leaf[i], other)) for i in range(3)]
    np.testing.assert_allclose(mapped, np.stack(alone), rtol=1e-4, atol=1e-4)


def test_the_bank_does_not_depend_on_blocks_and_is_bounded(monkeypatch):
    monkeypatch.setattr(patches, "CANDIDATES", 300)
    monkeypatch.setattr(patches, "BANK", 40)
    score, x = scoring.resolve("patches"), textured(6)
    whole, parts = score.fit([rows_of(x)]), score.fit([rows_of(x[:1]), rows_of(x[1:])])
    assert whole["bank"].shape[0] == 40
    np.testing.assert_allclose(whole["bank"], parts["bank"], rtol=1e-4, atol=1e-4)


def test_each_of_a_coreset_is_the_farthest_from_those_before():
    points = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    chosen = np.asarray(patches._coreset(jnp.asarray(points), 8))
    for i in range(1, 8):
        far = np.min(((points[:, None] - chosen[None, :i]) ** 2).sum(-1), axis=1)
        np.testing.assert_array_equal(chosen[i], points[np.argmax(far)])
    assert len(np.unique(chosen, axis=0)) == 8


def test_rows_that_are_no_images_are_refused():
    x = np.random.default_rng(0).random((8, 6), np.float32)
    vectors = dataset(x, x, x, x)
    with pytest.raises(UserError, match="takes images"):
        detectors.check(tiny("dense", score="patches"), vectors)


def test_codes_of_a_network_are_patches_too():
    score, rows = scoring.resolve("patch_codes"), rows_of(textured(6))
    assert score.needs == {"code"}
    state = score.fit([rows])
    far = rows.out.extra["code"].at[0, 2, 3].add(5.0)
    rows = rows._replace(out=rows.out._replace(extra={"code": far}))
    found = np.asarray(jax.vmap(score.places, (None, 0))(state, rows))
    assert np.unravel_index(np.argmax(found), found.shape) == (0, 2, 3)
