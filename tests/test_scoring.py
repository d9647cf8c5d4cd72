import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from probes import assert_close
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import mahalanobis
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from jaxae import scoring
from jaxae.errors import UserError
from jaxae.reports.studies.detection import batch_mean_std
from jaxae.types import Argument, Inferred, Outputs, Rule

pytestmark = pytest.mark.device

SHAPES = {"image": (9, 7, 2), "series": (11, 2), "vector": (6,)}
SUMS = ("mse+latent_knn", "d_of_r+blurred_energy+latent_mahalanobis")
OF_ANY = [name for name, score in scoring.SCORES.items() if not score.side]  # rows of any shape


def rows(shape, n=24, seed=0, latent=3):
    rng = np.random.default_rng(seed)
    x, x_hat = rng.random((2, n, *shape), np.float32)
    z = rng.normal(size=(n, latent)).astype(np.float32)
    extra = dict(zip(("d_of_r", "d_of_x"), rng.normal(size=(2, n)).astype(np.float32), strict=True))
    return jax.tree.map(jnp.asarray, Inferred(x, Outputs(x_hat, z, extra)))


def one(batch, i):
    return jax.tree.map(lambda a: a[i], batch)


def blocks(batch, *ends):
    """The rows in blocks that end there."""
    return [one(batch, slice(*part)) for part in itertools.pairwise((0, *ends, len(batch.x)))]


def fit_blocks(score, train, valid):
    """The fitted state from blocks of rows, as a detector has it."""
    fitted = score.fit(train) if score.fit else {}
    return score.standardise([fitted], [valid])[0] if score.standardise else fitted


def fit_rows(score, train, valid):
    return fit_blocks(score, [train], [valid])


def every_score(fn):
    """fn(score) for all scores in one compiled program: {spec: result}."""
    return jax.jit(lambda *args: {s: fn(scoring.resolve(s), *args) for s in (*OF_ANY, *SUMS)})


fit = every_score(fit_rows)


def score_rows(name, train, test):
    score = scoring.resolve(name)
    return jax.jit(lambda a, b: scoring.apply_rows(score, fit_rows(score, a, b), b))(train, test)


@pytest.mark.parametrize("kind", SHAPES)
def test_every_score_gives_one_finite_number_per_row_mapped_or_looped(kind):
    def apply(fitted, row):
        return {s: scoring.resolve(s).apply(f, row) for s, f in fitted.items()}

    shape = SHAPES[kind]
    fitted, test = fit(rows(shape, seed=1), rows(shape, seed=2)), rows(shape, n=5, seed=3)
    mapped = jax.jit(jax.vmap(apply, in_axes=(None, 0)))(fitted, test)
    in_chunks = jax.jit(
        lambda fitted, test: {
            s: scoring.apply_rows(scoring.resolve(s), f, test) for s, f in fitted.items()
        }
    )(fitted, test)
    alone = jax.jit(apply)
    looped = [alone(fitted, one(test, i)) for i in range(5)]
    assert len(mapped) == len(OF_ANY) + len(SUMS)
    for spec, values in mapped.items():
        assert values.shape == (5,), spec
        assert np.isfinite(values).all(), spec
        for other in ([row[spec] for row in looped], in_chunks[spec]):
            np.testing.assert_allclose(values, other, rtol=1e-4, atol=1e-5, err_msg=spec)


def test_every_score_survives_rows_without_any_spread():
    # Constant rows, perfect reconstructions and a dead code.
    x = jnp.zeros((8, 5, 5, 1))
    extra = {"d_of_r": jnp.zeros(8), "d_of_x": jnp.zeros(8)}
    flat = Inferred(x, Outputs(x, jnp.zeros((8, 3)), extra))
    results = every_score(lambda s, a: scoring.apply_rows(s, fit_rows(s, a, a), a))(flat)
    for spec, values in results.items():
        assert np.isfinite(values).all(), spec


def test_every_score_can_be_fitted_for_all_members_of_an_ensemble_at_once():
    @every_score
    def fitted_scores(score, train, test):
        return scoring.apply_rows(score, fit_rows(score, train, test), test)

    train, test = (
        jax.tree.map(lambda *a: jnp.stack(a), *[rows((6,), seed=s + e) for e in range(2)])
        for s in (0, 10)
    )
    together = jax.vmap(fitted_scores)(train, test)
    for spec, values in fitted_scores(one(train, 1), one(test, 1)).items():
        np.testing.assert_allclose(together[spec][1], values, rtol=1e-4, atol=1e-4, err_msg=spec)


def test_reconstruction_scores_agree_with_numpy():
    test = rows((6, 5, 1))
    x, x_hat = np.asarray(test.x, np.float64), np.asarray(test.out.x_hat, np.float64)
    axes = (1, 2, 3)
    expected = {
        "mse": ((x - x_hat) ** 2).mean(axes),
        "mae": np.abs(x - x_hat).mean(axes),
        "bce": -(x * np.log(x_hat) + (1 - x) * np.log(1 - x_hat)).mean(axes),
        "max_error": np.abs(x - x_hat).max(axes),
        "d_of_r": -np.asarray(test.out.extra["d_of_r"]),
        "d_of_x": -np.asarray(test.out.extra["d_of_x"]),
    }
    for name, values in expected.items():
        assert not scoring.SCORES[name].is_fitted
        np.testing.assert_allclose(score_rows(name, test, test), values, rtol=1e-5, err_msg=name)


def test_cross_entropy_is_clipped_and_has_the_exact_gradient():
    x, p = jnp.array([0.0, 1.0, 0.3, 1.0]), jnp.array([0.2, 0.9, 0.5, 0.01])
    np.testing.assert_allclose(
        jax.grad(scoring.bce, 1)(x, p), (p - x) / (p * (1 - p)) / 4, rtol=1e-5
    )
    # 1 - p is rounded to float32 before its logarithm is taken.
    dark = jnp.full(100, 1e-6)
    np.testing.assert_allclose(scoring.bce(jnp.zeros(100), dark), 1e-6, atol=6e-8)
    saturated = jnp.array([1.0, 0.0, 0.0, 1.0])
    loss, gradient = jax.value_and_grad(scoring.bce, 1)(x, saturated)
    np.testing.assert_allclose(loss, -np.log(1e-7) * (1 + 1 + 0.3) / 4, rtol=2e-2)
    assert np.isfinite(gradient).all()


def test_knn_agrees_with_scikit_learn_far_from_the_origin():
    train, test = rows((4,), n=300, seed=1), rows((4,), n=40, seed=2)
    shift = 1e3  # |z|^2 would swallow the distances in float32
    train, test = (r._replace(out=r.out._replace(z=r.out.z + shift)) for r in (train, test))
    values = score_rows("latent_knn", train, test)
    reference = NearestNeighbors(n_neighbors=5).fit(np.asarray(train.out.z, np.float64))
    expected = reference.kneighbors(np.asarray(test.out.z, np.float64))[0].mean(1)
    np.testing.assert_allclose(values, expected, rtol=1e-3)


def test_knn_of_rows_is_that_of_codes_that_are_the_rows():
    train, test = rows((3, 2), n=300, seed=1), rows((3, 2), n=40, seed=2)
    as_codes = [r._replace(out=r.out._replace(z=r.x.reshape(-1, 6))) for r in (train, test)]
    np.testing.assert_allclose(
        score_rows("row_knn", train, test), score_rows("latent_knn", *as_codes), rtol=1e-5
    )


def test_knn_of_a_small_bank_uses_all_of_it():
    train, test = rows((4,), n=2, seed=1), rows((4,), n=3, seed=2)
    values = score_rows("latent_knn", train, test)
    distances = np.linalg.norm(test.out.z[:, None] - train.out.z[None], axis=2)
    np.testing.assert_allclose(values, distances.mean(1), rtol=1e-5)


@pytest.mark.parametrize(("n", "shape"), [(300, (9, 2)), (12, (9, 2)), (300, (5, 30)), (40, (3,))])
def test_error_of_principal_components_agrees_with_scikit_learn(n, shape):
    train, test = rows(shape, n=n, seed=1), rows(shape, n=40, seed=2)
    values = score_rows("row_pca", train, test)
    x, new = (np.asarray(r.x, np.float64).reshape(len(r.x), -1) for r in (train, test))
    pca = PCA(max(1, min(32, x.shape[1] // 4, n - 1)), svd_solver="full").fit(x)
    expected = np.square(new - pca.inverse_transform(pca.transform(new))).mean(axis=1)
    np.testing.assert_allclose(values, expected, rtol=1e-3)


def test_mahalanobis_agrees_with_scipy():
    train, test = rows((4,), n=400, seed=1), rows((4,), n=9, seed=2)
    mixing = jnp.array([[1.0, 0.5, 0.0], [0.0, 2.0, 0.3], [0.0, 0.0, 0.1]])
    train, test = (r._replace(out=r.out._replace(z=r.out.z @ mixing + 5)) for r in (train, test))
    values = score_rows("latent_mahalanobis", train, test)
    z = np.asarray(train.out.z, np.float64)
    covariance = np.cov(z.T, bias=True)
    regular = 0.999 * covariance + 1e-3 * np.trace(covariance) / 3 * np.eye(3)
    expected = [mahalanobis(v, z.mean(0), np.linalg.inv(regular)) for v in test.out.z]
    np.testing.assert_allclose(values, expected, rtol=1e-3)


def test_blurred_energy_agrees_with_scipy():
    train = rows((9, 8, 2), seed=1)
    values = score_rows("blurred_energy", train, train)
    blurred = gaussian_filter(np.asarray(train.x - train.out.x_hat, np.float64), (0, 1, 1, 0))
    energy = (np.asarray(train.x) ** 2).mean((1, 2, 3))
    expected = (blurred**2).mean((1, 2, 3)) / np.sqrt(energy + 0.02 * energy.mean())
    np.testing.assert_allclose(values, expected, rtol=1e-4)


def test_a_sum_adds_what_valid_rows_standardise():
    train, valid = rows((6,), seed=1), rows((6,), seed=2)
    log_mse = np.log(((valid.x - valid.out.x_hat) ** 2).mean(1))
    parts = [log_mse, -np.asarray(valid.out.extra["d_of_x"])]
    expected = sum((p - p.mean()) / p.std() for p in parts)
    np.testing.assert_allclose(
        score_rows("mse+d_of_x", train, valid), expected, rtol=1e-4, atol=1e-5
    )


def test_the_largest_is_taken_of_what_valid_rows_standardise():
    train, valid = rows((6,), seed=1), rows((6,), seed=2)
    parts = [np.log(score_rows(name, train, valid)) for name in ("mse", "row_nearest", "row_knn")]
    expected = np.max([(p - p.mean()) / p.std() for p in parts], axis=0)
    values = score_rows("mse^row_nearest^row_knn", train, valid)
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-4)


def test_a_product_is_the_geometric_mean_in_the_units_of_its_scores():
    train, valid = rows((6,), seed=1), rows((6,), seed=2)
    parts = [score_rows(name, train, valid) for name in ("mse", "row_nearest", "max_error")]
    values = score_rows("mse*row_nearest*max_error", train, valid)
    np.testing.assert_allclose(values, np.prod(parts, axis=0) ** (1 / 3), rtol=1e-5)
    assert scoring.resolve("mse*row_nearest").standardise is None  # so p-values keep a guarantee
    with pytest.raises(UserError, match="'d_of_x' may be negative"):
        scoring.resolve("mse*d_of_x")


@pytest.mark.parametrize("shape", [(9, 2), (9,)])
def test_neighbours_of_the_shape_ignore_the_level_of_each_channel(shape):
    train, test = rows(shape, n=50, seed=1), rows(shape, n=20, seed=2)
    level = np.random.default_rng(3).normal(0, 9, (20, 1, *shape[1:])).astype(np.float32)
    centred = [r._replace(x=r.x - r.x.mean(axis=1, keepdims=True)) for r in (train, test)]
    expected = score_rows("row_nearest", *centred)
    lifted = test._replace(x=test.x + level)
    np.testing.assert_allclose(score_rows("shape_nearest", train, test), expected, rtol=1e-4)
    np.testing.assert_allclose(score_rows("shape_nearest", train, lifted), expected, rtol=1e-3)


FITTED = [s for s in (*OF_ANY, *SUMS) if scoring.resolve(s).is_fitted]


def test_a_score_that_is_fitted_needs_rows_and_another_one_none():
    assert set(FITTED) == {
        "blurred_energy",
        "latent_mahalanobis",
        "latent_knn",
        "local_compressed",
        "local_ranks",
        "robust_knn",
        "row_knn",
        "row_nearest",
        "row_pca",
        "shape_nearest",
        *SUMS,
    }


def test_rows_in_several_blocks_fit_what_one_block_does():
    train, valid = rows((9, 2), 61, seed=1), rows((9, 2), 37, seed=2)
    ends = [((), ()), ((30,), (20,)), ((1, 2, 59), (36,))]

    @every_score
    def fit_and_apply(score, train, valid):
        fitted = [fit_blocks(score, blocks(train, *a), blocks(valid, *b)) for a, b in ends]
        return fitted, [scoring.apply_rows(score, state, valid) for state in fitted]

    found = fit_and_apply(train, valid)
    for spec in FITTED:
        (whole, *parts), (expected, *scores) = found[spec]
        for state, values in zip(parts, scores, strict=True):
            if spec != "row_pca":  # components of near variances may turn in their plane
                assert_close(state, whole, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5, err_msg=spec)


def test_a_sum_is_one_object_so_that_it_is_compiled_once(monkeypatch):
    for spec in (*OF_ANY, *SUMS):
        assert scoring.resolve(spec) is scoring.resolve(spec)
    first = scoring.resolve("mse+mae")
    monkeypatch.setitem(scoring.SCORES, "mae", scoring.SCORES["max_error"])
    assert scoring.resolve("mse+mae") is not first  # the name stands for something else now


def test_a_sum_needs_what_its_parts_need():
    assert scoring.resolve("mse+d_of_r+d_of_x").needs == {"d_of_r", "d_of_x"}
    assert scoring.resolve("mse+latent_knn").needs == set()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("msee", "unknown score 'msee'; known: bce, blurred_energy"),
        ("mse+", "unknown score ''"),
        ("mse+mse", "names a score twice"),
        ("mse^mse", "names a score twice"),
        ("mse^mae+bce", "unknown score 'mae[+]bce'"),
    ],
)
def test_impossible_scores_are_refused(spec, message):
    with pytest.raises(UserError, match=message):
        scoring.resolve(spec)


RULES = jax.jit(
    lambda scores: {
        spec: scoring.rule(spec).fit(scores)["threshold"]
        for spec in ("mean_std:2", "mean_std:-0.5", "quantile:0.9", "mad:3", "max")
    }
)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 10**6]))
def test_rules_agree_with_numpy_ties_included(seed, levels):
    scores = np.random.default_rng(seed).integers(0, levels, 31).astype(np.float32)
    ours = RULES(jnp.asarray(scores))
    median = np.median(scores)
    expected = {
        "mean_std:2": scores.mean(dtype=float) + 2 * scores.std(dtype=float),
        "mean_std:-0.5": scores.mean(dtype=float) - 0.5 * scores.std(dtype=float),
        "quantile:0.9": np.quantile(scores, 0.9),
        "mad:3": median + 3 * 1.4826 * np.median(np.abs(scores - median)),
        "max": scores.max(),
    }
    for spec, value in expected.items():
        np.testing.assert_allclose(ours[spec], value, rtol=1e-5, atol=1e-5, err_msg=spec)


def test_rules_can_be_mapped_over_members():
    scores = jnp.asarray(np.random.default_rng(0).random((3, 31), np.float32))
    mapped = jax.vmap(RULES)(scores)
    for i in range(3):
        jax.tree.map(np.testing.assert_array_almost_equal_nulp, one(mapped, i), RULES(scores[i]))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "mean",
            "unknown threshold rule 'mean'; known: conformal, mad, max, mean_std, pot",
        ),
        ("mean_std", "needs a finite number"),
        ("mad:x", "needs a finite number"),
        ("mean_std:nan", "needs a finite number"),
        ("quantile:0", "between 0 and 1"),
        ("quantile:95", "between 0 and 1"),
        ("max:1", "takes no number"),
    ],
)
def test_impossible_rules_are_refused(spec, message):
    with pytest.raises(UserError, match=message):
        scoring.rule(spec)


@pytest.mark.parametrize("spec", ["mean_std:2", "quantile:0.9", "mad:3", "max"])
def test_a_score_is_judged_strictly_above_the_threshold(spec):
    calibration = np.random.default_rng(0).random(31).astype(np.float32)
    decision = scoring.fit_rule(spec, calibration)
    assert decision.rule == spec
    assert type(decision.threshold) is float
    np.testing.assert_array_equal(decision.calibration, calibration)
    at = np.float32(decision.threshold)
    scores = np.array([np.nextafter(at, -np.inf), at, np.nextafter(at, np.inf)], np.float32)
    found = scoring.decide(decision, scores)
    assert type(found) is np.ndarray
    assert found.dtype == bool
    assert found.tolist() == [False, False, True]


def test_a_rule_with_a_state_of_its_own_decides_by_it(monkeypatch):
    def fit(scores, share):
        low, high = jnp.quantile(scores, jnp.array([share / 2, 1 - share / 2]))
        return {"threshold": high, "low": low}

    def decide(state, scores):
        return (scores > state["threshold"]) | (scores < state["low"])

    two_sided = Rule(fit, Argument("a share", 0.1, 0, 1), decide)
    monkeypatch.setitem(scoring.RULES, "two_sided", two_sided)
    calibration = np.linspace(0, 1, 101, dtype=np.float32)
    decision = scoring.fit_rule("two_sided:0.2", calibration)
    assert decision.threshold == pytest.approx(0.9, rel=1e-5)
    scores = np.array([-5, 0.05, 0.5, 0.95], np.float32)
    assert scoring.decide(decision, scores).tolist() == [True, True, False, True]
    # The state on the host decides as the state on the device.
    kept = decision._replace(state=jax.tree.map(np.asarray, decision.state))
    assert scoring.decide(kept, scores).tolist() == [True, True, False, True]
    with pytest.raises(UserError, match=r"two_sided:2.*between 0 and 1"):
        scoring.fit_rule("two_sided:2", calibration)


def test_batch_means_spread_less_than_rows():
    scores = np.random.default_rng(0).random(10).astype(np.float32)
    means = np.array([scores[:4].mean(), scores[4:8].mean(), scores[8:].mean()])
    np.testing.assert_allclose(
        batch_mean_std(jnp.asarray(scores), 4, 2.0),
        means.mean() + 2 * means.std(),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        batch_mean_std(jnp.asarray(scores), 1),
        scoring.fit_rule("mean_std:1", scores).threshold,
        rtol=1e-5,
    )


def test_members_are_averaged():
    np.testing.assert_array_equal(scoring.combine(jnp.array([[0.0, 2.0], [4.0, 4.0]])), [2, 3])
