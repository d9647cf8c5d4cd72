"""Which score maps show defects of textures: all that need no pretrained network, in one table.

    python -m benchmarks.textures                    # the generated textures
    python -m benchmarks.textures --photographs      # brick, grass and gravel of scikit-image
    python -m benchmarks.textures --scores patches mse --most 30

For each texture one autoencoder is trained as `jaxae train` does by default; each score is fitted
beside it, so that its map alone differs. Printed are AUROC by pixel, AUPRO to a false-positive rate
of .3 and AUROC by image, and the seconds of fitting and of maps. Of a photograph, 512 x 512 pixels,
crops of the left half are trained on; in those of the right half the generator's defects are drawn.
"""

import argparse
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from benchmarks import output
from jaxae import config, detectors, scoring
from jaxae.cli.train import OPEN
from jaxae.data import generated, splits
from jaxae.data.generated import defects
from jaxae.data.raw_data import Raw
from jaxae.detectors import evaluation
from jaxae.devices import parallel
from jaxae.errors import UserError
from jaxae.methods import learners
from jaxae.ops.blur import gaussian_blur
from jaxae.rng import Purpose, host_generator
from jaxae.scoring import patches, pooling
from jaxae.stats import curve, pixels
from jaxae.training import grid, train
from jaxae.types import Dataset, Inferred, Score
from jaxae.workflows import auto

PHOTOGRAPHS = ("brick", "grass", "gravel")
SCORES = (
    "mse", "blurred", "normalised", "gradients", "ssim", "patch_codes", "raw_patches",
    "patches_mahalanobis", "patches", "patches+blurred",
)  # fmt: skip
_METRICS = ("pixel AUROC", "AUPRO", "image AUROC")
_SIGMA = 8.0  # pixels; of the blur of residuals
_WORST = pooling.resolve(f"top:{patches.WORST}")  # as `patches` does
_SIDE, _KINDS = 256, ("scratch", "spot", "stain", "missing")


def _of_residuals(at: Callable[[Array, Array], Array]) -> Score:
    """The mean over the worst places of a map [H, W] of a row and its reconstruction."""

    def places(fitted: dict, row: Inferred) -> Array:
        return at(row.x, row.out.x_hat)

    def apply(fitted: dict, row: Inferred) -> Array:
        return _WORST(places(fitted, row))

    return Score(apply, places=places)


def _smooth(x: Array, sigma: float) -> Array:
    return gaussian_blur(x, sigma, radius=int(np.ceil(3 * sigma)))


def _blurred(x: Array, x_hat: Array) -> Array:
    return jnp.mean(_smooth(jnp.square(x - x_hat), _SIGMA), axis=-1)


def _normalised(x: Array, x_hat: Array) -> Array:
    """Blurred squares, divided by the local variance of the row."""
    variance = _smooth(jnp.square(x - _smooth(x, _SIGMA)), _SIGMA)
    return _blurred(x, x_hat) / (jnp.mean(variance, axis=-1) + 1e-4)


def _gradients(x: Array, x_hat: Array) -> Array:
    difference = _smooth(x - x_hat, 1.0)
    squares = sum(jnp.square(one) for one in jnp.gradient(difference, axis=(0, 1)))
    return jnp.mean(_smooth(squares, _SIGMA), axis=-1)


def _ssim(x: Array, x_hat: Array) -> Array:
    """1 - SSIM (Wang et al., 2004) with a Gaussian of 1.5 pixels, then blurred."""
    mean, mean_hat = _smooth(x, 1.5), _smooth(x_hat, 1.5)
    variance = _smooth(x * x, 1.5) - mean**2
    variance_hat = _smooth(x_hat * x_hat, 1.5) - mean_hat**2
    covariance = _smooth(x * x_hat, 1.5) - mean * mean_hat
    ratio = (2 * mean * mean_hat + 1e-4) * (2 * covariance + 9e-4)
    ratio = ratio / ((mean**2 + mean_hat**2 + 1e-4) * (variance + variance_hat + 9e-4))
    return jnp.mean(_smooth((1 - ratio) / 2, _SIGMA), axis=-1)


def _raw(row: Inferred) -> Array:
    """Every fourth patch of 8 x 8 pixels, as it is."""
    x = jnp.pad(row.x, ((2, 2), (2, 2), (0, 0)), mode="symmetric")
    h, w = (size // patches.STRIDE for size in row.x.shape[:2])
    parts = [
        x[i : i + h * patches.STRIDE : patches.STRIDE, j : j + w * patches.STRIDE : patches.STRIDE]
        for i in range(8)
        for j in range(8)
    ]
    return jnp.concatenate(parts, axis=-1)


def _raw_neighbours() -> Score:
    """Distances to the nearest raw patches of a random part of all."""

    def fit(rows: Iterable[Inferred]) -> dict:
        return {"bank": patches.candidates(_raw, rows)[:4096]}

    def places(fitted: dict, row: Inferred) -> Array:
        squares = jnp.min(patches.squares(_raw(row), fitted["bank"]), axis=-1)
        return _smooth(jnp.sqrt(jnp.maximum(squares, 0))[..., None], 1.0)[..., 0]

    return Score(lambda fitted, row: jnp.max(places(fitted, row)), fit, places=places)


def _mahalanobis() -> Score:
    """The length of whitened features: the distance to their mean."""
    nearest = patches.score(lambda row: patches.texture(row.x))

    def places(fitted: dict, row: Inferred) -> Array:
        far = patches.whitened(fitted, patches.texture(row.x))
        return _smooth(jnp.linalg.norm(far, axis=-1, keepdims=True), patches.SMOOTH)[..., 0]

    def apply(fitted: dict, row: Inferred) -> Array:
        return _WORST(places(fitted, row))

    return Score(apply, nearest.fit, places=places)


def register() -> None:
    """Enter the maps that only this table has."""
    own = {"blurred": _blurred, "normalised": _normalised, "gradients": _gradients, "ssim": _ssim}
    for name, at in own.items():
        scoring.SCORES.add(name, _of_residuals(at))
    scoring.SCORES.add("raw_patches", _raw_neighbours())
    scoring.SCORES.add("patches_mahalanobis", _mahalanobis())


def photographs(name: str, each: int = 6) -> Raw:
    """Crops of a photograph of scikit-image; those to test are of its other half."""
    from skimage import data

    photograph = getattr(data, name)()[..., None]
    half = photograph.shape[1] // 2
    kinds = ["good"] * (60 + 2 * each) + [kind for kind in _KINDS for _ in range(each)]
    images, masks = [], []
    for i, kind in enumerate(kinds):
        rng = host_generator(0, Purpose.GENERATION, PHOTOGRAPHS.index(name), i, 1)
        top = rng.integers(photograph.shape[0] - _SIDE + 1)
        left = 0 if i < 60 else half
        crop = photograph[top : top + _SIDE, left : left + _SIDE] / 255
        mask = np.zeros(crop.shape[:2], bool)
        if kind != "good":
            crop, mask = getattr(defects, kind)(rng, crop)
        images.append(np.round(255 * np.clip(crop, 0, 1)).astype(np.uint8))
        masks.append(mask)
    classes = ("good", *_KINDS)
    class_id = np.array([classes.index(kind) for kind in kinds], np.int32)
    x, truth = np.stack(images), np.stack(masks)
    parts = x[:60], class_id[:60], x[60:], class_id[60:]
    return Raw(*parts, (0,), test_place_y=truth[60:])


def measured(name: str, raw: Raw, scores: Iterable[str], most: float) -> Iterator[dict]:
    """A row of the table for each score, of one trained model."""
    asked = dataclasses.replace(OPEN, data=dataclasses.replace(OPEN.data, name=name))
    span = auto.in_floats((raw.x_train.min(), raw.x_train.max()))
    make = functools.partial(splits.make, raw)
    cfg, dataset = auto.settle_rows(asked, raw.x_train.shape[1:], span, make)
    learner = learners.build(config.for_scoring(cfg), dataset.shape)
    start = time.perf_counter()
    variables = _trained(cfg, dataset, most)
    trained = time.perf_counter() - start
    for spec in dict.fromkeys([*scores, cfg.score]):
        score, devices = scoring.resolve(spec), jax.local_devices()
        if not score.needs <= learners.METHODS[cfg.method].outputs:
            continue
        start = time.perf_counter()
        own = dataclasses.replace(cfg, score=spec)
        fitted = detectors.fit_score(learner, variables, dataset, own, devices)
        seconds = time.perf_counter() - start
        given, truth = (variables, fitted, dataset.test.x), dataset.test_place_y
        assert truth is not None
        (maps,) = evaluation.mapper(learner, score, False, devices)(*given)
        (by_row,) = evaluation.scorer(learner, score, devices)(*given)
        found = pixels.by_pixel(maps, truth, np.zeros_like(truth))
        yield {
            "texture": name,
            "score": spec + (" (default)" if spec == cfg.score else ""),
            "pixel AUROC": found.auroc,
            "AUPRO": found.aupro,
            "image AUROC": curve.area(by_row, dataset.test.y),
            "train s": trained,
            "fit s": seconds,
            "all s": time.perf_counter() - start + trained,
        }


def _trained(cfg: config.ExperimentConfig, dataset: Dataset, most: float):
    """Variables [1, ...] after training; `most` steps at most."""
    n = len(dataset.train.x)
    steps = -(-n // cfg.train.batch_size)
    epochs = max(1, min(cfg.train.epochs, int(most) // steps)) if most else cfg.train.epochs
    cfg = dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, epochs=epochs))
    settings = learners.build(cfg, dataset.shape, axis=None).settings
    runs = [grid.Member(cfg, settings, np.arange(n), np.arange(0))]
    learner, layout = grid.learner_and_layout(runs, dataset.shape, cfg.devices)
    together = grid.members_of(runs)
    state = train.fit(learner, dataset.train.x, cfg, layout, members=together, quiet=True).state
    return layout.fetch(state.variables)


def table(rows: list[dict]) -> str:
    """Markdown: a line for each score, pixel AUROC / AUPRO / image AUROC for each texture."""
    names = list(dict.fromkeys(row["texture"] for row in rows))
    lines = [f"| score | {' | '.join(names)} | mean |", "|---|" + "---|" * (len(names) + 1)]
    for score in dict.fromkeys(row["score"] for row in rows):
        of_score = [row for row in rows if row["score"] == score]
        values = np.array([[row[key] for key in _METRICS] for row in of_score])
        if len(values) == len(names):
            shown = np.vstack([values, values.mean(axis=0)])
            cells = [" / ".join(f"{v:.3f}"[1:] if v < 1 else "1" for v in one) for one in shown]
            lines.append(f"| `{score}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print; see the docstring of the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--photographs", action="store_true", help="measure scikit-image's textures"
    )
    parser.add_argument("--scores", nargs="+", default=SCORES)
    parser.add_argument("--most", type=float, default=0, help="training steps at most; 0 = default")
    parser.add_argument("--out", type=output.to(".json"), help="file for the rows of the table")
    order = parser.parse_args()
    parallel.initialize()
    register()
    if order.photographs:
        try:
            import skimage  # noqa: F401
        except ImportError:
            raise UserError(
                "no scikit-image here; run: python -m pip install scikit-image"
            ) from None
        data = {name: functools.partial(photographs, name) for name in PHOTOGRAPHS}
    else:
        data = {
            name: functools.partial(generated.load, name, 0)
            for name in ("weave", "grid", "stone", "wood")
        }
    rows: list[dict] = []
    for name, load in data.items():
        for row in measured(name, load(), order.scores, order.most):
            rows.append(row)
            print(json.dumps(row), flush=True)
    print(table(rows))
    if order.out:
        Path(order.out).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
