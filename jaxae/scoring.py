"""Losses, anomaly scores and threshold rules: pure functions of one example, mapped by callers.

Higher = more anomalous. A training loss and the score of the same name share one definition.
A score may carry state fitted on normal rows (`Score.fit`), and "a+b" adds standardised scores.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import solve_triangular

from jaxae.errors import UserError, unknown
from jaxae.filters import gaussian_blur
from jaxae.types import Array, Outputs, Rows, Score, ThresholdRule

NEIGHBOURS = 5
_CHUNK = 256  # rows scored side by side: bounds the memory of [rows, bank] distances


# Losses of one example: (x [*S], x_hat [*S]) -> []. Both are flattened first: on a CPU, pixels that
# come from a flat layer cost a division each to be found in rows and columns.


def _mean(values: Array) -> Array:
    """The mean of [F]; on a CPU as a product, where XLA sums one by one what it just computed."""
    return lax.platform_dependent(
        values,
        cpu=lambda v: jnp.dot(v, jnp.ones_like(v), precision="highest") / v.size,
        default=jnp.mean,
    )


def mse(x: Array, x_hat: Array) -> Array:
    """Mean squared error of one example, mean((x - x_hat)^2) in [0, inf)."""
    return _mean(jnp.square(x.ravel() - x_hat.ravel()))


def mae(x: Array, x_hat: Array) -> Array:
    """Mean absolute error of one example, mean(|x - x_hat|) in [0, inf)."""
    return _mean(jnp.abs(x.ravel() - x_hat.ravel()))


def bce(x: Array, x_hat: Array) -> Array:
    """Binary cross-entropy of one example, -mean(x log p + (1 - x) log(1 - p)).

    p is `x_hat` clipped to [1e-7, 1 - 1e-7] as in Keras, so value and gradient are finite; beyond
    the clip the gradient is 0. Both arguments are in [0, 1]; the result is in [0, inf) and, for
    grey values of x, not 0 at x_hat = x.
    """
    x, p = x.ravel(), jnp.clip(x_hat.ravel(), 1e-7, 1 - 1e-7)
    # Not `log1p(-p)`: it takes twice as long, and 1 - p is off by 6e-8 at most.
    return -_mean(x * jnp.log(p) + (1 - x) * jnp.log(1 - p))


LOSSES: dict[str, Callable[[Array, Array], Array]] = {"mse": mse, "mae": mae, "bce": bce}


# Scores.


def _fit_nothing(train: Rows, calibration: Rows) -> dict:
    del train, calibration
    return {}


def _of_reconstruction(loss: Callable[[Array, Array], Array]) -> Score:
    """The score that compares a row with its reconstruction and fits nothing."""
    return Score(_fit_nothing, lambda fitted, x, out: loss(x, out.x_hat))


def _max_error(x: Array, x_hat: Array) -> Array:
    return jnp.max(jnp.abs(x - x_hat))


def _mahalanobis_fit(train: Rows, calibration: Rows) -> dict:
    """Mean and whitening matrix W of training codes; W'W is the regularised precision."""
    del calibration
    z = train.out.z
    mean = jnp.mean(z, axis=0)
    centred = z - mean[None]
    covariance = jnp.matmul(centred.T, centred, precision="highest") / len(z)
    # Shrinkage by one part in a thousand towards the mean variance: dead units cannot explode.
    eye, variance = jnp.eye(z.shape[1]), jnp.trace(covariance) / z.shape[1]
    regular = 0.999 * covariance + (1e-3 * variance + 1e-12) * eye
    return {"mean": mean, "whiten": solve_triangular(jnp.linalg.cholesky(regular), eye, lower=True)}


def _mahalanobis_apply(fitted: dict, x: Array, out: Outputs) -> Array:
    """Distance sqrt((z - m)' P (z - m)) of a code to the training codes, in standard deviations."""
    del x
    return jnp.linalg.norm(
        jnp.matmul(fitted["whiten"], out.z - fitted["mean"], precision="highest")
    )


def _knn_fit(train: Rows, calibration: Rows) -> dict:
    """The bank of training codes, centred so that the expanded distance loses no digits."""
    del calibration
    mean = jnp.mean(train.out.z, axis=0)
    return {"mean": mean, "bank": train.out.z - mean[None]}


def _knn_apply(fitted: dict, x: Array, out: Outputs) -> Array:
    """Mean Euclidean distance of a code to its nearest training codes.

    A row that is in the bank is its own neighbour at distance 0.
    """
    del x
    bank, z = fitted["bank"], out.z - fitted["mean"]
    # |b|^2 - 2 b.z ranks the bank as one matrix product over mapped rows; only the few nearest are
    # then measured by their difference, which is exact for duplicates too.
    rank = jnp.matmul(bank, z, precision="highest") - 0.5 * jnp.sum(jnp.square(bank), axis=1)
    _, nearest = lax.top_k(rank, min(NEIGHBOURS, len(bank)))
    return jnp.mean(jnp.linalg.norm(bank[nearest] - z[None], axis=1))


def _energy_fit(train: Rows, calibration: Rows) -> dict:
    """E, the mean over training rows of mean(x^2)."""
    del calibration
    return {"energy": jnp.mean(jnp.square(train.x))}


def _energy_apply(fitted: dict, x: Array, out: Outputs) -> Array:
    """mean(blur(x - x_hat)^2) / sqrt(mean(x^2) + 0.02 E), the blur with sigma 1 pixel.

    The blur forgives misplaced edges, the division forgives bright rows their larger errors.
    Images are blurred over height and width, series over time, vectors not at all.
    """
    residual = gaussian_blur(x - out.x_hat, 1.0, radius=4)
    energy = jnp.mean(jnp.square(x)) + 0.02 * fitted["energy"]
    return jnp.mean(jnp.square(residual)) / jnp.sqrt(jnp.maximum(energy, 1e-12))


SCORES: dict[str, Score] = {
    "mse": _of_reconstruction(mse),
    "mae": _of_reconstruction(mae),
    "bce": _of_reconstruction(bce),
    "max_error": _of_reconstruction(_max_error),
    "blurred_energy": Score(_energy_fit, _energy_apply),
    "latent_mahalanobis": Score(_mahalanobis_fit, _mahalanobis_apply),
    "latent_knn": Score(_knn_fit, _knn_apply),
    # Log-odds that a discriminator finds the reconstruction, or the row, real; negated.
    "d_of_r": Score(_fit_nothing, lambda fitted, x, out: -out.d_of_r),
    "d_of_x": Score(_fit_nothing, lambda fitted, x, out: -out.d_of_x),
}
_SIGNED = frozenset({"d_of_r", "d_of_x"})  # log-odds already; all others are >= 0


def apply_rows(score: Score, fitted: dict, rows: Rows) -> Array:
    """`score.apply` of every row, some hundreds at a time: [N]."""
    return lax.map(lambda row: score.apply(fitted, row.x, row.out), rows, batch_size=_CHUNK)


def resolve(spec: str) -> Score:
    """The score that a name, or several joined by "+", stands for.

    In a sum every score is put on one scale before it is added: its logarithm (log-odds as they
    are), minus the mean and divided by the standard deviation over calibration rows. The fitted
    state of a sum is `{name: {"score": its own state, "mean": [], "std": []}}`.

    Args:
      spec: for instance "mse" or "blurred_energy+latent_knn".

    Raises:
      UserError: a name is unknown, or stands twice in a sum.
    """
    names = spec.split("+")
    for name in names:
        if name not in SCORES:
            raise unknown("score", name, SCORES)
    if len(names) == 1:
        return SCORES[spec]
    if len(set(names)) < len(names):
        raise UserError(f"score {spec!r} names a score twice; name each one once")
    return Score(
        fit=lambda train, calibration: {n: _standardise(n, train, calibration) for n in names},
        apply=lambda fitted, x, out: sum(_standardised(n, fitted[n], x, out) for n in names),
    )


def _scale_free(name: str, value: Array) -> Array:
    return value if name in _SIGNED else jnp.log(jnp.maximum(value, 1e-12))


def _standardise(name: str, train: Rows, calibration: Rows) -> dict:
    fitted = SCORES[name].fit(train, calibration)
    values = _scale_free(name, apply_rows(SCORES[name], fitted, calibration))
    std = jnp.std(values)
    return {"score": fitted, "mean": jnp.mean(values), "std": jnp.where(std > 0, std, 1.0)}


def _standardised(name: str, fitted: dict, x: Array, out: Outputs) -> Array:
    value = _scale_free(name, SCORES[name].apply(fitted["score"], x, out))
    return (value - fitted["mean"]) / fitted["std"]


def combine(scores: Array) -> Array:
    """The score of an ensemble: the mean over its members, [E, N] -> [N]."""
    return jnp.mean(scores, axis=0)


# Threshold rules: scores of normal rows [N] -> threshold [].


def _mean_std(k: float) -> ThresholdRule:
    """Mean + k standard deviations, with the population's 1/N as `numpy.std` has it.

    PyTorch's default, 1/(N-1), differs by a factor of sqrt(N / (N-1)).
    """
    return lambda scores: jnp.mean(scores) + k * jnp.std(scores)


def _quantile(q: float) -> ThresholdRule:
    """The q-quantile, linearly interpolated: a share of 1 - q of such rows lies above it."""
    if not 0 < q < 1:
        raise UserError(f"threshold rule 'quantile:{q:g}' needs a share between 0 and 1, as 0.95")
    return lambda scores: jnp.quantile(scores, q)


def _mad(k: float) -> ThresholdRule:
    """Median + k * 1.4826 * median absolute deviation: mean + k std for Gaussians, but robust."""

    def rule(scores: Array) -> Array:
        median = jnp.median(scores)
        return median + k * 1.4826 * jnp.median(jnp.abs(scores - median))

    return rule


def _max() -> ThresholdRule:
    """The largest score: none of these rows is flagged."""
    return jnp.max


THRESHOLDS: dict[str, Callable[..., ThresholdRule]] = {
    "mean_std": _mean_std,
    "quantile": _quantile,
    "mad": _mad,
    "max": _max,
}


def rule(spec: str) -> ThresholdRule:
    """The threshold rule that a text stands for.

    Args:
      spec: "mean_std:K", "quantile:Q", "mad:K" or "max".

    Raises:
      UserError: the rule is unknown, or its number is missing, superfluous or out of range.
    """
    name, colon, text = spec.partition(":")
    if name not in THRESHOLDS:
        raise unknown("threshold rule", name, THRESHOLDS)
    if name == "max":
        if colon:
            raise UserError(f"threshold rule {spec!r} takes no number; write 'max'")
        return _max()
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(
            f"threshold rule {spec!r} needs a finite number after {name}, as {name}:0.9"
        )
    return THRESHOLDS[name](number)


def batch_mean_std(scores: Array, batch_size: int, k: float = 1.0) -> Array:
    """Mean of the scores + k standard deviations *of the means of consecutive batches*.

    A tutorial's rule, kept for comparison with it: the spread of means of B rows is about sqrt(B)
    times smaller than that of single rows, so the rule flags far more normals than it seems to.

    Args:
      scores: [N]; the last batch may be shorter.
      batch_size: B.
      k: how many standard deviations.

    Returns:
      The threshold, []. Its mean is over batch means too.
    """
    batch = jnp.arange(len(scores)) // batch_size
    count = -(-len(scores) // batch_size)
    sums = jax.ops.segment_sum(scores, batch, count)
    means = sums / jax.ops.segment_sum(jnp.ones_like(scores), batch, count)
    return jnp.mean(means) + k * jnp.std(means)
