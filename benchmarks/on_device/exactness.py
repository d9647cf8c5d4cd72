"""Check that a device computes the same as a CPU: the same programs on the same arrays.

The reference is the CPU in float32. Losses, gradients and scores must agree if products are exact.
At the platform's default precision, and for training, which amplifies rounding differences, the
deviations are only reported.
"""

import functools
import subprocess
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import throughput
from benchmarks.cases import CASES, Case, config, rows
from benchmarks.on_device import cpu_run
from benchmarks.on_device.part import Attempts, Order
from benchmarks.on_device.results import words
from benchmarks.on_device.speed import VARIANTS
from benchmarks.on_device.stages import EXACTNESS
from jaxae import rng, scoring
from jaxae.detectors import evaluation
from jaxae.devices import members, parallel
from jaxae.errors import UserError
from jaxae.methods import learners
from jaxae.training import train
from jaxae.types import Learner, PyTree
from jaxae.workflows import verification

_ROWS = 32  # of a batch
_STEPS = 6  # of the course that is compared
_LOOKED_AT = 3  # the step after which parameters are
_FITTED, _SCORED = 128, 64  # rows
_RATE = 2.0**24  # a huge step of SGD gives gradients to float32 precision
_LOSS, _GRADIENT = throughput.TOLERANCE["float32"]
_LEAST = 8.0  # seconds for a model
_VARIED = ("fmnist_dense", "mnist_conv", "ecg_dense")  # on which choices of tuning are tried
_FURTHER = {"fcn": CASES["mnist_conv"]._replace(method="fcn")}  # without a reference system
_SCORE = 1e-5  # relative to the score or to 1, as `jaxae.workflows.verification` has it


class Found(NamedTuple):
    """What one device computes for a model at one precision."""

    losses: np.ndarray
    gradients: PyTree
    course: np.ndarray
    parameters: PyTree  # after `_LOOKED_AT` steps
    variables: PyTree  # at the end


def main(order: Order) -> None:
    """Check every model and score, the choices of `jaxae.devices.tuning`, and a run made on a CPU.

    Parts that run at the same time share the models; the first part also checks the run.
    """
    parallel.initialize()
    number = EXACTNESS.index(order.part)
    models = order.models[number :: len(EXACTNESS)]
    attempts = Attempts(order, _LEAST)
    made = None
    try:
        if number == 0:
            made = cpu_run.start(order.out / "cpu-run", order.rehearsal)  # beside what follows
            _methods(order)
            models = [*models, *_FURTHER]
        for model in models:
            attempts.make(functools.partial(_model, order, model), "agreement", model)
        for model in [model for model in models if model in _VARIED]:
            attempts.make(functools.partial(_variants, order, model), "agreement", model)
        if made:
            _verified(order, made)
    finally:
        if made:
            made.kill()


def _methods(order: Order) -> None:
    """Check that every method has a model, so that none is left untested."""
    missing = {*learners.METHODS} - {config(name).method for name in CASES} - {*_FURTHER}
    if missing:
        words_ = f"no model stands for method {', '.join(sorted(missing))}"
        order.journal.write("agreement", error=words_)


def the_device() -> jax.Device:
    """The accelerator; without one, the last host device."""
    return jax.devices()[-1] if jax.default_backend() == "cpu" else jax.devices()[0]


def _model(order: Order, model: str) -> None:
    case, cpu, device = (CASES | _FURTHER)[model], jax.devices("cpu")[0], the_device()
    state = _initial(case, cpu)
    reference = _compute(case, "highest", cpu, state)
    for precision in ("highest", "default"):
        found = _compute(case, precision, device, state)
        say = functools.partial(_say, order, model, "as is", precision)
        say("losses", relative(found.losses, reference.losses), _LOSS)
        worst = max(_of_leaves(found.gradients, reference.gradients))
        say("gradients", worst, _GRADIENT)
        say("course", relative(found.course, reference.course))
        say("parameters", apart(found.parameters, reference.parameters))
    variables = reference.variables
    ours, theirs = (_scores(case, where, variables) for where in (device, cpu))
    for name, values in ours.items():
        off = np.abs(values - theirs[name]) / np.maximum(1, np.abs(theirs[name]))
        _say(order, model, "as is", "highest", f"score {name}", float(off.max()), _SCORE)


def _say(
    order: Order, model: str, setting: str, precision: str, quantity: str, deviation: float,
    allowed: float | None = None,
) -> None:  # fmt: skip
    """Record a deviation; it has a tolerance only at float32 precision."""
    values: dict[str, Any] = {"quantity": quantity, "deviation": deviation}
    if allowed is not None and precision == "highest":
        values |= {"allowed": allowed, "ok": bool(deviation <= allowed)}  # a NaN is not
    order.journal.write("agreement", model, setting, precision=precision, **values)


def _config(case: Case, precision: str, **changes: Any) -> Any:
    fixed = {"train.batch_size": _ROWS, "train.precision": precision, "train.epochs": _STEPS}
    method = {"method": case.method} if case.method else {}
    return config(case.name, **fixed | method | changes)


def _initial(case: Case, cpu: jax.Device) -> PyTree:
    """The initial state, computed on the CPU for all devices."""
    learner = learners.build(_config(case, "highest"), case.shape)
    with jax.default_device(cpu):
        keys = members.keys(rng.stream(0, rng.Purpose.INIT), 1)
        return jax.device_get(train.initial_state(learner, case.shape, keys))


def _compute(case: Case, precision: str, device: jax.Device, state: PyTree) -> Found:
    """Losses and gradients without noise, and a training course with noise, one step an epoch."""
    x = rows(case, _ROWS, seed=3)
    losses, gradients = _gradients(case, precision, device, state, x)
    cfg = _config(case, precision)
    course, parameters, variables = course_of(_fresh(cfg, case), cfg, device, state, x)
    return Found(losses, gradients, course, parameters, variables)


def _fresh(cfg: Any, case: Case, **tuned: Any) -> Learner:
    """A new learner, for which nothing has been compiled yet."""
    learner = learners.build(cfg, case.shape)
    return learner._replace(tuning=learner.tuning._replace(**tuned))


def _gradients(
    case: Case, precision: str, device: jax.Device, state: PyTree, x: np.ndarray
) -> tuple[np.ndarray, PyTree]:
    sgd = {"name": "sgd", "lr": _RATE, "lr_discriminator": _RATE, "weight_decay": 0.0}
    changes = {f"optim.{name}": value for name, value in sgd.items()}
    cfg = _config(case, precision, **changes, **{"train.noise_std": 0.0})
    learner = _fresh(cfg, case)
    apart_ = train.ensemble(learner, cfg, _ROWS)
    empty = train.abstract_state(learner, case.shape, 1)  # SGD keeps nothing
    start = state.replace(
        opt_state=jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), empty.opt_state)
    )
    placed = parallel.place((start, x), [device])
    keys, settings = parallel.place((apart_.noise, apart_.settings), [device])
    plan = parallel.split(np.arange(_ROWS, dtype=np.int32)[None, None], [device])
    new, metrics = parallel.epoch_fn(learner, [device])(*placed, plan, keys, settings)
    new, metrics = jax.device_get((new.params, metrics))
    gradients = jax.tree.map(lambda a, b: (a - b) / np.float32(_RATE), state.params, new)
    return np.array([value.ravel()[0] for value in metrics.values()]), gradients


def course_of(
    learner: Learner, cfg: Any, device: jax.Device, state: PyTree, x: np.ndarray
) -> tuple[np.ndarray, PyTree, PyTree]:
    """The loss after each step, the parameters after some steps, and the final variables."""
    losses, seen = [], {}

    def on_epoch(epoch: int, state: PyTree, metrics: dict) -> dict:
        losses.append([metrics[name].ravel()[0] for name in sorted(metrics) if "loss" in name])
        if epoch == _LOOKED_AT:
            seen["params"] = jax.device_get(state.params)
        return metrics

    given = jax.tree.map(np.array, state)  # it is donated
    fitted = train.fit(learner, x, cfg, [device], state=given, on_epoch=on_epoch, quiet=True)
    return np.array(losses), seen["params"], jax.device_get(fitted.state.variables)


def relative(found: np.ndarray, reference: np.ndarray) -> float:
    """The largest relative deviation; NaN if any value is NaN."""
    return float(np.max(np.abs(found - reference) / np.maximum(np.abs(reference), 1e-30)))


def apart(found: PyTree, reference: PyTree) -> float:
    """||found - reference|| / ||reference|| over all arrays of a tree; NaN if any value is NaN."""
    both = (np.concatenate([np.ravel(a).astype(np.float64) for a in jax.tree.leaves(tree)])
            for tree in (found, reference))  # fmt: skip
    one, other = both
    return float(np.linalg.norm(one - other) / max(np.linalg.norm(other), 1e-30))


def _of_leaves(found: PyTree, reference: PyTree) -> list[float]:
    """The deviation of each array; relative to all arrays for one that is nearly zero."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(reference)]
    whole = np.sqrt(sum(np.square(leaf).sum() for leaf in leaves))
    return [
        float(np.linalg.norm(a - b) / max(np.linalg.norm(b), throughput.SMALL * whole, 1e-30))
        for a, b in zip(jax.tree.leaves(found), leaves, strict=True)
    ]


def _scores(case: Case, device: jax.Device, variables: PyTree) -> dict[str, np.ndarray]:
    """Every score that the method supports, fitted and computed on a device."""
    cfg = _config(case, "highest")
    learner = _fresh(cfg, case)
    able = learners.METHODS[cfg.method].outputs
    scores = {
        name: score
        for name, score in scoring.SCORES.items()
        if score.needs <= able and not score.side  # those are for larger images
    }
    fitted_on, scored = rows(case, _FITTED, seed=4), rows(case, _SCORED, seed=5)
    outputs = evaluation.inference(learner, [device])
    found = {}
    with jax.default_device(device):
        for name, score in scores.items():
            seen = evaluation.Blocks(outputs, members.pick(variables, 0), fitted_on)
            fitted = score.fit(seen) if score.fit else {}
            fitted = jax.tree.map(lambda leaf: leaf[None], fitted)
            of = evaluation.scorer(learner, score, [device])
            found[name] = np.asarray(of(variables, fitted, scored)[0], np.float64)
    return found


def _variants(order: Order, model: str) -> None:
    """Whether a choice of `jaxae.devices.tuning` changes the training course on the device."""
    case, device = CASES[model], the_device()
    cfg, x = _config(case, "highest"), rows(case, _ROWS, seed=3)
    state = _initial(case, jax.devices("cpu")[0])
    plain, *_ = course_of(_fresh(cfg, case), cfg, device, state, x)
    for setting, tuned in VARIANTS.items():
        if not tuned:
            continue
        try:
            course, *_ = course_of(_fresh(cfg, case, **tuned), cfg, device, state, x)
        except Exception as error:
            order.journal.write("agreement", model, setting, error=words(error))
            continue
        # The first loss has no step behind it that could amplify anything.
        quantities = {"first loss": 1, "course": _STEPS}
        for quantity, steps in quantities.items():
            off = relative(course[:steps], plain[:steps])
            allowed = _LOSS if steps == 1 else None
            _say(order, model, setting, "highest", f"{quantity} beside as is", off, allowed)


def _verified(order: Order, made: subprocess.Popen) -> None:
    """Verify on the device a run that was trained on a CPU, and its export."""
    try:
        _, error = made.communicate(timeout=max(1.0, order.clock.left()))
    except subprocess.TimeoutExpired:
        order.journal.write("verified", "digits_conv", no_time="the run on a CPU takes longer")
        return
    if made.returncode:
        last = (error.strip().splitlines() or ["without a word"])[-1]
        order.journal.write("verified", "digits_conv", error=f"the run on a CPU: {last[:250]}")
        return
    for path in cpu_run.made(order.out / "cpu-run"):
        try:
            checks = verification.verify(path)
        except UserError as error:
            order.journal.write("verified", "digits_conv", path.name, error=words(error))
            continue
        for check in checks:
            values = {"ok": check.ok, "words": check.words}
            order.journal.write("verified", "digits_conv", f"{path.name}: {check.name}", **values)
