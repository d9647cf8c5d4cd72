"""Every competitor behind one interface, so that one loop can check and time them all."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks.cases import CASES, Case, Weights, config, flatten, rows, unflatten

SCORED = 4096  # rows of one scoring pass
_RATE = 2.0**24  # see tests/test_parity.py: a huge SGD step gives gradients to float32 precision


class Unavailable(Exception):
    """A setting that this machine or framework cannot run; the message says why."""


class Program(NamedTuple):
    """A model ready to be checked and timed; every call returns when the work is done.

    Attributes:
      gradients: rows [B, *S] -> ({"loss": ...}, gradients), at the weights given, without noise.
      train: make this many steps.
      score: score all `SCORED` rows in chunks of this many.
      steps: the number of steps that `train` must be called with; 0 = any.
      devices: how many devices work.
      device: what they are.
      versions: of the framework.
      precision: of products in float32, as the framework names it.
      transfer_s: seconds until the training rows were on the devices.
      cost: `{"flops_per_step": ..., "bytes_per_step": ...}`; None = the framework does not say.
    """

    gradients: Callable[[np.ndarray], tuple[dict[str, float], Weights]]
    train: Callable[[int], None]
    score: Callable[[int], None]
    steps: int
    devices: int
    device: str
    versions: dict[str, str]
    precision: str
    transfer_s: float
    cost: Callable[[], dict[str, float]] | None = None


def _order(case: Case, batch: int) -> np.ndarray:
    """Row numbers [T, B] of one block of steps: a shuffled epoch."""
    return np.random.default_rng(1).permutation(case.block * batch).reshape(-1, batch)


def _parse(spec: dict) -> tuple[Case, object]:
    changes = {"model.compute_dtype": spec["dtype"], "ensemble": spec.get("ensemble", 1)}
    changes["devices"] = spec.get("devices", 0)
    if spec.get("batch"):
        changes["train.batch_size"] = spec["batch"]
    case = CASES[spec["model"]]
    return case._replace(block=spec.get("block", case.block)), config(case.name, **changes)


def initial_weights(spec: dict) -> Weights:
    """The library's own initial weights of one model, for everybody to start from."""
    from jaxae import learners, members, rng, train

    case, cfg = _parse(spec)
    learner = learners.build(cfg, case.shape, axis=None)
    keys = members.keys(rng.stream(0, rng.Purpose.INIT), 1)
    return flatten(members.pick(train.initial_state(learner, case.shape, keys).params, 0))


def jaxae(spec: dict, weights: Weights) -> Program:
    """The library as its experiments run it: many steps in one dispatch, on resident rows."""
    import jax

    from jaxae import learners, members, parallel
    from jaxae import train as training
    from jaxae.errors import UserError
    from jaxae.scoring import SCORES
    from jaxae.types import Inferred

    case, cfg = _parse(spec)
    learner = learners.build(cfg, case.shape)
    tuned = learner.tuning._replace(**spec.get("tuning", {}))
    learner = learner._replace(tuning=tuned)
    try:
        devices = training.devices_for(learner, cfg, case.shape)
    except UserError as error:
        raise Unavailable(str(error)) from None
    order = _order(case, cfg.train.batch_size)
    # One copy of the rows on every device, and each device's columns of the plan.
    x, transfer = placed(
        rows(case, order.size), lambda a: jax.block_until_ready(parallel.place(a, devices))
    )
    split = lambda plan: parallel.split(  # noqa: E731
        np.ascontiguousarray(plan.reshape(len(plan), len(devices), -1).swapaxes(0, 1), np.int32),
        devices,
    )

    def start(learner):
        """The state of every member at the weights given; keys and settings, as experiments do."""
        apart = training.ensemble(learner, cfg, order.size)
        params = jax.tree.map(
            lambda leaf: np.broadcast_to(leaf, (cfg.ensemble, *leaf.shape)), unflatten(weights)
        )
        state = training.initial_state(learner, case.shape, apart.init).replace(params=params)
        return parallel.place((state, apart.noise, apart.settings), devices)

    plan = split(order)
    state, keys, settings = start(learner)
    box = [state]

    def gradients(sample: np.ndarray) -> tuple[dict[str, float], Weights]:
        plain = {"name": "sgd", "lr": _RATE, "lr_discriminator": _RATE, "weight_decay": 0.0}
        changes = {f"optim.{k}": v for k, v in plain.items()}
        quiet = config(
            case.name,
            **changes,
            **{"train.noise_std": 0.0, "model.compute_dtype": spec["dtype"]},
        )
        once = learners.build(quiet, case.shape)
        at_weights, *others = start(once)
        index = split(np.arange(len(sample))[None])
        new, metrics = parallel.epoch_fn(once, devices)(
            at_weights, parallel.place(sample, devices), index, *others
        )
        new, metrics = jax.device_get(members.pick((new.params, metrics), 0))
        after = flatten(new)
        grads = {k: (weights[k] - after[k]) / np.float32(_RATE) for k in weights}
        return {k: float(v[0]) for k, v in metrics.items()}, grads

    programs = []

    def train(steps: int) -> None:
        args = (box[0], x, plan, keys, settings)
        if not programs:
            programs.append(parallel.compiled_epoch(learner, devices, *args))
        box[0], metrics = programs[0](*args)
        jax.block_until_ready((box[0], metrics))

    mse = SCORES["mse"]

    def of_rows(variables, sample):
        found = Inferred(sample, learner.infer(variables, sample))
        return jax.vmap(mse.apply, in_axes=(None, 0))({}, found)

    # As experiments do: scoring has no batch to keep whole, so it takes every device.
    judges = devices if spec["devices"] else jax.local_devices()
    scorer = parallel.rows_fn(of_rows, judges, learner)
    scored, blocks = rows(case, SCORED), {}

    def score(chunk: int) -> None:
        if chunk not in blocks:
            blocks[chunk] = list(parallel.blocks(scored, judges, chunk))
        placed = parallel.place(box[0].variables, judges)
        parallel.map_rows(scorer, placed, blocks[chunk], SCORED)

    def cost() -> dict[str, float]:
        return step_cost(cfg, case.shape)

    return Program(
        gradients, train, score, len(order), len(devices), devices[0].device_kind,
        _versions("jax", "flax"), _jax_precision(), transfer, cost,
    )  # fmt: skip


def flax(spec: dict, weights: Weights) -> Program:
    """Plain Flax, one jitted step per dispatch."""
    import jax
    import jax.numpy as jnp

    from benchmarks import reference_flax

    case, cfg = _parse(spec)
    init, gradients_of, step, score_of = reference_flax.build(case, cfg)
    order = list(jnp.asarray(_order(case, cfg.train.batch_size)))
    x, transfer = placed(
        rows(case, sum(map(len, order))), lambda a: jax.block_until_ready(jnp.asarray(a))
    )
    scored = jnp.asarray(rows(case, SCORED))
    run = jax.jit(
        lambda state, x, rows, i, key: step(state, x[rows], jax.random.fold_in(key, i)),
        donate_argnums=0,
    )
    judge, key = jax.jit(score_of), jax.random.key(2)
    # Jitted, so that every leaf has a buffer of its own to donate.
    box = [jax.jit(init)(unflatten(weights))]

    def gradients(sample):
        state = init(jax.tree.map(jnp.array, unflatten(weights)))
        losses, grads, _ = jax.jit(gradients_of)(state, sample, sample)
        return {k: float(v) for k, v in losses.items()}, flatten(grads)

    def train(steps: int) -> None:
        for i in range(steps):
            box[0] = run(box[0], x, order[i % len(order)], i, key)
        jax.block_until_ready(box[0])

    def score(chunk: int) -> None:
        parts = [judge(box[0], scored[i : i + chunk]) for i in range(0, SCORED, chunk)]
        np.concatenate(parts)

    return Program(
        gradients, train, score, 0, 1, jax.local_devices()[0].device_kind,
        _versions("jax", "flax"), _jax_precision(), transfer,
    )  # fmt: skip


def torch(spec: dict, weights: Weights) -> Program:
    """PyTorch: eager, channels_last or compiled, on so many threads."""
    import torch

    from benchmarks import reference_torch

    if reference_torch.DEVICE.type == "cuda" and spec["threads"] != 1:
        raise Unavailable("the number of threads matters on a CPU only")
    torch.set_num_threads(spec["threads"])
    case, cfg = _parse(spec)
    program = reference_torch.build(case, cfg, spec["setting"])
    order = torch.from_numpy(_order(case, cfg.train.batch_size)).to(reference_torch.DEVICE)
    x, transfer = placed(rows(case, order.numel()), program.prepare)
    scored = program.prepare(rows(case, SCORED))
    program.load(weights)

    def done() -> None:
        if reference_torch.DEVICE.type == "cuda":
            torch.cuda.synchronize()

    def gradients(sample):
        program.load(weights)
        return program.gradients(program.prepare(sample))

    def train(steps: int) -> None:
        for i in range(steps):
            program.step(x[order[i % len(order)]])
        done()

    def score(chunk: int) -> None:
        parts = [program.score(scored[i : i + chunk]) for i in range(0, SCORED, chunk)]
        torch.cat(parts).cpu().numpy()

    kind = torch.cuda.get_device_name() if reference_torch.DEVICE.type == "cuda" else "cpu"
    precision = torch.get_float32_matmul_precision()
    return Program(gradients, train, score, 0, 1, kind, _versions("torch"), precision, transfer)


def keras(spec: dict, weights: Weights) -> Program:
    """TensorFlow and Keras: a function per step, with XLA, in a loop, or `fit`."""
    import tensorflow as tf

    from benchmarks import reference_keras

    case, cfg = _parse(spec)
    program = reference_keras.build(case, cfg, spec["setting"])
    order = _order(case, cfg.train.batch_size)
    x, transfer = placed(rows(case, order.size), program.prepare)
    scored = program.prepare(rows(case, SCORED))
    program.load(weights)

    def gradients(sample):
        program.load(weights)
        return program.gradients(program.prepare(sample))

    def train(steps: int) -> None:
        for first in range(0, steps, len(order)):
            program.train(x, order[: steps - first])

    def score(chunk: int) -> None:
        parts = [program.score(scored[i : i + chunk]) for i in range(0, SCORED, chunk)]
        np.concatenate([part.numpy() for part in parts])

    fixed = len(order) if spec["setting"] in ("loop", "fit") else 0
    gpus = tf.config.list_physical_devices("GPU")
    kind = tf.config.experimental.get_device_details(gpus[0])["device_name"] if gpus else "cpu"
    fast = tf.config.experimental.tensor_float_32_execution_enabled()
    return Program(
        gradients, train, score, fixed, 1, kind, _versions("tensorflow", "keras"),
        "tensorfloat32 allowed" if fast else "highest", transfer,
    )  # fmt: skip


FRAMEWORKS = {"jaxae": jaxae, "flax": flax, "torch": torch, "keras": keras}


def _versions(*names: str) -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in names}


def _jax_precision() -> str:
    import jax

    return jax.config.jax_default_matmul_precision or "default"


def step_cost(cfg, shape: tuple[int, ...]) -> dict[str, float]:
    """Operations of a step as any device makes them, and bytes that it touches on this one."""
    from benchmarks.cost_model import flops, traced_step

    batch = cfg.train.batch_size
    found = traced_step(cfg, shape, batch).lower().compile().cost_analysis() or {}
    return {
        "flops_per_step": flops(cfg, shape, batch),
        "bytes_per_step": found.get("bytes accessed", 0.0),
    }


def peaks(size: int = 2048, megabytes: int = 256) -> dict[str, float]:
    """What this machine reaches: a large product of float32, and a large array read and written."""
    import jax
    import jax.numpy as jnp

    a, x = jnp.ones((size, size)), jnp.ones(megabytes << 18)
    product, copy = jax.jit(jnp.matmul), jax.jit(lambda x: x + 1)

    def best(call: Callable[[], object]) -> float:
        call()
        return min(timed(lambda: jax.block_until_ready(call())) for _ in range(7))

    return {
        "flops_per_s": 2 * size**3 / best(lambda: product(a, a)),
        "bytes_per_s": 2 * x.nbytes / best(lambda: copy(x)),
    }


def placed(values: np.ndarray, place: Callable[[np.ndarray], Any]) -> tuple[Any, float]:
    """Rows where a framework wants them, and the seconds that it took."""
    start = time.perf_counter()
    return place(values), time.perf_counter() - start


def timed(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
