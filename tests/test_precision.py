"""Products in full float32 wherever results are compared, whatever a platform does by itself.

A CPU computes no other products, so reduced ones are emulated: the operands of every product that
does not ask for full float32 are rounded to ten bits of mantissa, as TensorFloat-32 has.
"""

import contextlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import primitives
from probes import SHAPE, assert_same, batch, images, tiny, write_npz

from jaxae import detectors, scoring
from jaxae.devices import precision
from jaxae.export import exporting, loader
from jaxae.methods import learners
from jaxae.reports import plots
from jaxae.storage import disk, provenance
from jaxae.training import train
from jaxae.workflows import experiment, verification

EXACT = (jax.lax.Precision.HIGHEST,) * 2
PRODUCTS = (primitives.dot_general_p, primitives.conv_general_dilated_p)


def rounded(operand):
    return jax.lax.reduce_precision(operand, exponent_bits=8, mantissa_bits=10)


@contextlib.contextmanager
def reduced_products():
    """What is traced meanwhile is computed as a GPU would by default."""

    def reduced(primitive):
        bind = primitive.bind

        def bound(a, b, **params):
            if params["precision"] != EXACT:
                a, b = rounded(a), rounded(b)
            return bind(a, b, **params)

        return bound

    def forget():
        jax.clear_caches()
        learners._built.cache_clear()

    with pytest.MonkeyPatch.context() as patch:
        for primitive in PRODUCTS:
            patch.setattr(primitive, "bind", reduced(primitive), raising=False)
        forget()
        yield
    forget()


@pytest.fixture
def rows(tmp_path):
    return write_npz(tmp_path / "rows.npz")


def run(rows, folder, method="conv", **changes):
    """A finished run, undrawn."""
    changes |= {"data__name": f"npz:{rows}", "run_dir": str(folder), "devices": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "draw", lambda *args: [])
        return experiment.run(tiny(method, **changes))


def parameters(folder):
    return detectors.load(folder / "detector").variables


def test_the_emulation_rounds_what_does_not_ask_for_float32():
    a, b = np.random.default_rng(0).random((2, 64, 64), np.float32)
    exact = a.astype(np.float64) @ b
    with reduced_products():
        off = {
            name: np.abs(jax.jit(precision.at(name, jnp.matmul))(a, b) / exact - 1).max()
            for name in ("default", "highest")
        }
    assert off["highest"] < 1e-6
    assert 1e-5 < off["default"] < 1e-3


@pytest.mark.parametrize(
    ("method", "score"),
    [
        ("dense", "mse+row_knn"),
        pytest.param("dense", "latent_mahalanobis", marks=pytest.mark.slow),
        pytest.param("conv", "mse", marks=pytest.mark.slow),
        pytest.param("conv", "blurred_energy+latent_knn", marks=pytest.mark.slow),
        pytest.param("alocc", "d_of_r", marks=pytest.mark.slow),
    ],
)
def test_what_was_trained_in_reduced_precision_is_judged_alike_without(
    method, score, rows, tmp_path
):
    with reduced_products():
        run(rows, tmp_path / "run", method, score=score)
    run(rows, tmp_path / "exact", method, score=score)
    trained, other = (jax.tree.leaves(parameters(tmp_path / name)) for name in ("run", "exact"))
    assert any((a != b).any() for a, b in zip(trained, other, strict=True)), "of training it is"
    checks = {check.name: check for check in verification.verify(tmp_path / "run")}
    assert all(check.ok for check in checks.values()), verification.table([*checks.values()])
    assert "scored as recorded" in checks["scores"].words
    assert "0 decisions differ" in checks["scores"].words
    # An export that is made where products are reduced, and used where they are not.
    with reduced_products():
        exporting.write(tmp_path / "run", tmp_path / "run.zip")
    judged = loader.load(tmp_path / "run.zip").judge(images(40, seed=5))
    known = detectors.judge(detectors.load(tmp_path / "run" / "detector"), images(40, seed=5))
    np.testing.assert_allclose(judged.score, known.score, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(judged.is_anomaly, known.is_anomaly)
    with reduced_products():
        there = loader.load(tmp_path / "run.zip").judge(images(40, seed=5))
    assert_same(there._asdict(), judged._asdict())


@pytest.mark.slow
def test_scores_that_were_not_exact_would_be_found(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "exact", lambda function: function)
    scoring.scores._exact.cache_clear()
    with reduced_products():
        run(rows, tmp_path / "run")
    (check,) = (c for c in verification.verify(tmp_path / "run") if c.name == "scores")
    assert not check.ok
    assert "scores differ by up to" in check.words
    scoring.scores._exact.cache_clear()


@pytest.mark.slow
def test_training_in_full_float32_is_a_setting(rows, tmp_path):
    with reduced_products():
        run(rows, tmp_path / "asked", train__precision="highest")
    run(rows, tmp_path / "exact")
    assert_same(parameters(tmp_path / "asked"), parameters(tmp_path / "exact"))
    (line,) = disk.read_lines(tmp_path / "asked" / "provenance.jsonl")
    assert line["precision"] == {"training": "highest (float32)", "all else": "float32"}
    assert disk.read_json(tmp_path / "asked" / "config.json")["train"]["precision"] == "highest"


@pytest.mark.parametrize("method", ["dense", "conv", "alocc"])
@pytest.mark.parametrize("asked", ["default", "high", "highest"])
def test_every_product_of_a_learner_asks_for_its_precision(method, asked):
    learner = learners.build(tiny(method, train__precision=asked), SHAPE, axis=None)
    stacked = train.abstract_state(learner, SHAPE, 1)
    state = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), stacked)
    row = jax.ShapeDtypeStruct((2, *SHAPE), jnp.float32)

    def found(function, *args):
        asked = set()
        _collect(jax.make_jaxpr(function)(*args).jaxpr, asked)
        return asked

    assert found(learner.infer, state.variables, row) == {"HIGHEST"}
    key = jax.random.key(0)
    settings = {name: jnp.float32(value) for name, value in learner.settings.items()}

    def step(state, x):
        return learner.step(state, batch(x), key, settings)

    expected = {"default": {None}, "high": {"HIGH"}, "highest": {"HIGHEST"}}[asked]
    # Means are products of ones on a CPU, exact in any case.
    assert found(step, state, row) - {"HIGHEST"} == expected - {"HIGHEST"}
    assert expected <= found(step, state, row)


def _collect(jaxpr, asked):
    """The precisions of all products of a program, inner ones too."""
    for eqn in jaxpr.eqns:
        if eqn.primitive in PRODUCTS:
            of = eqn.params["precision"]
            asked.add(of[0].name if of else None)
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if isinstance(inner, jax.extend.core.ClosedJaxpr):
                    _collect(inner.jaxpr, asked)
                elif isinstance(inner, jax.extend.core.Jaxpr):
                    _collect(inner, asked)


def device(platform, capability=None):
    return types.SimpleNamespace(platform=platform, compute_capability=capability)


@pytest.mark.parametrize(
    ("asked", "where", "words"),
    [
        ("default", device("cpu"), "default (float32)"),
        ("high", device("cpu"), "high (float32)"),
        ("default", device("gpu", "9.0"), "default (TensorFloat-32)"),
        ("default", device("gpu", "7.0"), "default (float32)"),
        ("high", device("gpu", "9.0"), "high (TensorFloat-32)"),
        ("default", device("gpu", "12.0"), "default (TensorFloat-32)"),
        ("default", device("gpu", "gfx942"), "default (the platform's own)"),
        ("default", device("gpu"), "default (the platform's own)"),
        ("highest", device("gpu", "9.0"), "highest (float32)"),
        ("default", device("tpu"), "default (bfloat16)"),
        ("high", device("tpu"), "high (bfloat16, three passes)"),
        ("highest", device("tpu"), "highest (float32)"),
    ],
)
def test_the_record_says_what_a_precision_means_on_a_device(asked, where, words):
    assert precision.in_words(asked, where) == words


def test_the_environment_is_what_default_leaves_it_to():
    with jax.default_matmul_precision("bfloat16"):
        words = precision.in_words("default", device("gpu", "9.0"))
    assert words == "bfloat16 (set by JAX_DEFAULT_MATMUL_PRECISION)"
    with jax.default_matmul_precision("highest"):
        assert precision.in_words("default", device("gpu", "9.0")) == "highest (float32)"


def test_a_plugin_is_on_record_where_one_is_installed(monkeypatch):
    known = provenance.version
    monkeypatch.setattr(
        provenance, "version", lambda name: "1.2.3" if name == "libtpu" else known(name)
    )
    assert provenance.provenance()["versions"]["libtpu"] == "1.2.3"
    assert "jax-cuda12-plugin" not in provenance.packages() or known("jax-cuda12-plugin")
