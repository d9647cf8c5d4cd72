"""A method, a score, a rule, a source and a study of one's own: the package stays as it is."""

import contextlib
import dataclasses
import json
import math
import shutil
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import assert_same, images, initial

from jaxae import data, detectors, rng
from jaxae.config import DataConfig, ExperimentConfig, ModelConfig, OptimConfig, TrainConfig
from jaxae.data import DATASETS, splits
from jaxae.data.raw_data import Raw
from jaxae.detectors import evaluation
from jaxae.devices import tuning
from jaxae.methods import learners
from jaxae.methods.learners import METHODS, Method
from jaxae.methods.optimisers import optimiser
from jaxae.methods.reconstruction import descent
from jaxae.reports.plots import FigureSpec
from jaxae.reports.plots.style import canvas
from jaxae.reports.studies import STUDIES, Findings, Study
from jaxae.scoring import RULES, SCORES, mse
from jaxae.types import Argument, Learner, Outputs, Rule, Score
from jaxae.workflows import experiment

LATENT, SIDE = 3, 8


# A method: a small variational autoencoder (Kingma and Welling, 2014).


class Variational(nn.Module):
    """x [B, *S], eps [B, L] -> (x_hat, mean of the code, divergence from the prior in nats)."""

    shape: tuple[int, ...]
    latent: int

    def setup(self):
        self.encoder = nn.Dense(2 * self.latent)
        self.decoder = nn.Dense(math.prod(self.shape))

    def decode(self, z):
        return nn.sigmoid(self.decoder(z)).reshape(-1, *self.shape)

    def __call__(self, x, eps):
        mean, log_var = jnp.split(self.encoder(x.reshape(len(x), -1)), 2, axis=-1)
        x_hat = self.decode(mean + jnp.exp(0.5 * log_var) * eps)
        divergence = 0.5 * jnp.sum(jnp.exp(log_var) + mean**2 - 1 - log_var, axis=-1)
        return x_hat, mean, divergence


def variational(cfg, shape, axis):
    net, latent, size = Variational(shape, cfg.model.latent), cfg.model.latent, math.prod(shape)

    def prepare(batch, key, settings):
        draw = jax.vmap(lambda key: jax.random.normal(key, (latent,)))
        return batch.x, draw(rng.row_keys(key, batch.slot))

    def losses(params, rows):
        x_hat, _, divergence = net.apply({"params": params}, *rows)
        return jax.vmap(mse)(rows[0], x_hat) + divergence / size

    def infer(variables, x):
        x_hat, z, divergence = net.apply(variables, x, jnp.zeros((len(x), latent)))
        return Outputs(x_hat, z, {"divergence": divergence})

    def loss(row, settings):
        return mse(row.x, row.out.x_hat) + row.out.extra["divergence"] / size

    init, step = descent(
        lambda key, x: net.init(key, x, jnp.zeros((1, latent)))["params"],
        prepare,
        losses,
        lambda lr: optimiser(cfg.optim, lr),
        axis=axis,
    )
    decode = partial(net.apply, method="decode")
    return Learner(init, step, infer, loss, {"lr": cfg.optim.lr}, decode)


# A score with fitted state: the divergence, in units of its mean over training rows.


def fit_divergence(train):
    found = [block.out.extra["divergence"] for block in train]
    return {"mean": jnp.mean(jnp.concatenate(found))}


def apply_divergence(fitted, row):
    return mse(row.x, row.out.x_hat) * row.out.extra["divergence"] / fitted["mean"]


# A rule that keeps the scores it was fitted on: rows that are reconstructed too well count as well.


def fit_two_sided(scores, alpha):
    return {"threshold": jnp.quantile(scores, 1 - alpha / 2), "scores": scores, "alpha": alpha}


def decide_two_sided(state, scores):
    kept, scores = jnp.asarray(state["scores"])[None], jnp.asarray(scores)[:, None]
    fewer = jnp.minimum(jnp.sum(kept >= scores, axis=1), jnp.sum(kept <= scores, axis=1))
    return 2 * (1 + fewer) / (1 + kept.size) <= state["alpha"]


# A source: rows that are made when they are asked for, never all at once.


class Made:
    """Blobs by number, as if they lay in a file; remembers the largest request."""

    dtype = np.dtype(np.float32)

    def __init__(self, n, seed, flip_from):
        self.shape, self.most = (n, SIDE, SIDE, 1), 0
        self._all, self._flip_from = images(n, seed), flip_from

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, index):
        at = np.arange(len(self))[index]
        self.most = max(self.most, len(at))
        rows = self._all[at]
        return np.where((at >= self._flip_from)[:, None, None, None], 1 - rows, rows)


def made(cfg):
    del cfg
    y_test = (np.arange(64) >= 32).astype(np.int32)
    return Raw(Made(160, 1, 160), None, Made(64, 2, 32), y_test, normal=(0,))


# A study of its own, with a figure.


def spread(context):
    z = context.outputs(context.data.test.x[:]).z
    arrays = {"std": z.std(axis=0)}
    return Findings(arrays, {"code_spread": float(arrays["std"].mean())})


def draw_spread(run_dir):
    with np.load(run_dir / "arrays" / "spread.npz") as stored:
        figure, axes = canvas(4, 3)
        axes[0, 0].plot(stored["std"])
    return figure


FIGURE = FigureSpec(("arrays/spread.npz",), draw_spread)
OWN = (
    (METHODS, "vae", Method(
        variational, frozenset({"model.latent"}), decodes=True, outputs=frozenset({"divergence"})
    )),
    (SCORES, "surprise", Score(
        apply_divergence, fit_divergence, needs=frozenset({"divergence"})
    )),
    (RULES, "two_sided", Rule(fit_two_sided, Argument("a share", 0.2, 0, 1), decide_two_sided)),
    (DATASETS, "made", made),
    (STUDIES, "spread", Study(spread, frozenset({"decoder"}), {"code_spread": FIGURE})),
)  # fmt: skip

CONFIG = ExperimentConfig(
    name="own",
    method="vae",
    score="surprise+mse",
    studies=("spread", "interpolation"),
    devices=1,
    data=DataConfig(name="made", valid_fraction=0.25, scale="minmax"),
    model=ModelConfig(latent=LATENT),
    optim=OptimConfig(lr=1e-2),
    train=TrainConfig(epochs=3, batch_size=16),
)
CONFIG = dataclasses.replace(
    CONFIG, threshold=dataclasses.replace(CONFIG.threshold, rule="two_sided:0.2")
)


@contextlib.contextmanager
def entered():
    """What a script would do before it runs: enter its own; and undo it for the other tests."""
    for registry, name, entry in OWN:
        registry.add(name, entry)
    try:
        yield
    finally:
        for registry, name, _ in OWN:
            del registry[name]


@pytest.fixture
def own():
    with entered():
        yield


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The experiment, run: its configuration, folder and report."""
    folder = tmp_path_factory.mktemp("own") / "run"
    cfg = dataclasses.replace(CONFIG, run_dir=str(folder))
    with entered():
        return cfg, folder, experiment.run(cfg)


def test_an_experiment_of_ones_own_runs_to_its_report_and_figures(ran):
    _, folder, report = ran
    assert report["method"] == "vae"
    assert report["code_spread"] > 0
    assert report["auroc"] > 0.9
    drawn = {path.stem for path in (folder / "figures").glob("*.png")}
    assert drawn >= {"code_spread", "interpolation", "loss_curves", "roc_pr"}


def test_its_validation_loss_is_its_own(ran, own):
    """Not the reconstruction error alone: the divergence counts too."""
    cfg, folder, report = ran
    learner = learners.build(cfg, (SIDE, SIDE, 1), axis=None)
    detector = detectors.load(folder / "detector")
    dataset = data.load(cfg.data)
    x = dataset.valid.x[:]
    out = learner.infer(jax.tree.map(lambda a: a[0], detector.variables), x)
    error = np.mean((np.asarray(out.x_hat) - x) ** 2)
    divergence = float(np.mean(out.extra["divergence"])) / x[0].size
    assert report["valid_loss"] == pytest.approx(error + divergence, rel=1e-4)
    assert divergence > 1e-3 * error


def test_its_rule_decides_by_what_it_kept(ran):
    _, folder, _ = ran
    with np.load(folder / "scores.npz") as stored:
        valid, test, decided = (stored[k] for k in ("valid", "test", "test_is_anomaly"))
    sides = [(valid[None] >= test[:, None]), (valid[None] <= test[:, None])]
    p = 2 * (1 + np.min([side.sum(axis=1) for side in sides], axis=0)) / (1 + len(valid))
    np.testing.assert_array_equal(decided, p <= 0.2)
    assert 0 < decided.sum() < len(decided)


def test_its_detector_judges_raw_rows_alone(ran, own):
    _, folder, _ = ran
    raw = made(None).x_test[:]
    found = detectors.judge(detectors.load(folder / "detector"), raw)
    with np.load(folder / "scores.npz") as stored:
        np.testing.assert_array_equal(found.score, stored["test"])
        np.testing.assert_array_equal(found.is_anomaly, stored["test_is_anomaly"])


def test_the_same_command_goes_on(ran, own, tmp_path):
    cfg, folder, report = ran
    shutil.copytree(folder, tmp_path / "run")
    cfg, folder = dataclasses.replace(cfg, run_dir=str(tmp_path / "run")), tmp_path / "run"
    longer = dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, epochs=4))
    again = experiment.run(longer)
    assert again["epochs"] == 4
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4]
    assert again["train_loss"] < report["train_loss"]


def test_a_source_is_read_in_blocks_and_gives_what_an_array_gives(own, monkeypatch):
    """Scaling, splits, the score's fit and the losses ask for it piece by piece."""
    monkeypatch.setattr(tuning, "BLOCK", 16)
    cfg = dataclasses.replace(CONFIG, score="latent_mahalanobis")
    learner = learners.build(cfg, (SIDE, SIDE, 1))
    device = jax.local_devices()[:1]
    variables = initial(learner, (SIDE, SIDE, 1)).variables
    lazy = made(None)
    found = {}
    for raw in (lazy, lazy._replace(x_train=lazy.x_train[:], x_test=lazy.x_test[:])):
        lazy.x_train.most = lazy.x_test.most = 0
        dataset = splits.make(raw, cfg.data)
        scored = detectors.fit(learner, variables, dataset, cfg, device)
        loss = evaluation.loss_fn(learner, dataset.valid.x, device)
        found[raw is lazy] = (dataset.scaling, scored[1], loss(variables, {})())
        if raw is lazy:
            assert isinstance(dataset.train.x[:3], np.ndarray)
            # Scoring pads its rows to whole chunks: that is the most it asks for.
            assert max(lazy.x_train.most, lazy.x_test.most) <= max(16, 64 * 2)
    assert_same(found[True][0], found[False][0])
    for one, other in zip(
        *(jax.tree.leaves(found[lazy][1:]) for lazy in (True, False)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4)


def test_a_name_that_was_not_entered_is_refused_with_those_that_were():
    with pytest.raises(ValueError, match=r"unknown method 'vae'; known: alocc, conv, dense"):
        experiment.check(CONFIG)
