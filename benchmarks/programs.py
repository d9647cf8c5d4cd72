"""A common interface to all competitors, so that one loop can check and time them."""

import contextlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks.cases import CASES, Case, Weights, config, flatten, replace, rows, unflatten

SCORED = 4096  # rows of one scoring pass on a CPU
SCORED_ELSEWHERE = 65_536  # enough rows to outlast the start of a scoring pass
_RATE = 2.0**24  # see tests/test_parity.py: a huge SGD step gives gradients to float32 precision


class Unavailable(Exception):
    """A setting that this machine or framework cannot run; the message says why."""


class Program(NamedTuple):
    """A model ready to be checked and timed; every call returns when the work is done.

    Attributes:
      gradients: rows [B, *S] -> ({"loss": ...}, gradients), at the given weights, without noise,
        with exact float32 products.
      train: make this many steps.
      score: score `scored` rows in chunks of this size, with exact float32 products.
      steps: `train` takes multiples of this number, which are one dispatch, or replay of a CUDA
        graph; 0 = any number.
      scored: rows of one scoring pass.
      devices: number of devices in use.
      device: their kind.
      versions: versions of the framework's packages.
      precision: precision of float32 products in training, as the framework names it.
      transfer_s: seconds until the training rows were on the devices.
      cost: `{"flops_per_step": ..., "bytes_per_step": ...}`; None = unknown.
    """

    gradients: Callable[[np.ndarray], tuple[dict[str, float], Weights]]
    train: Callable[[int], None]
    score: Callable[[int], None]
    steps: int
    scored: int
    devices: int
    device: str
    versions: dict[str, str]
    precision: str
    transfer_s: float
    cost: Callable[[], dict[str, float]] | None = None


def _scored(platform: str) -> int:
    return SCORED if platform == "cpu" else SCORED_ELSEWHERE


def _order(case: Case, batch: int) -> np.ndarray:
    """Row numbers [T, B] of one block of steps: a shuffled epoch."""
    return np.random.default_rng(1).permutation(case.block * batch).reshape(-1, batch)


def _precision(spec: dict) -> str:
    """Precision of products in training: "default" (TF32 on GPUs that have it) or "highest"."""
    return spec.get("precision", "default")


def _parse(spec: dict) -> tuple[Case, object]:
    changes = {"model.compute_dtype": spec["dtype"], "ensemble": spec.get("ensemble", 1)}
    changes["devices"] = spec.get("devices", 0)
    if spec.get("batch"):
        changes["train.batch_size"] = spec["batch"]
    case = CASES[spec["model"]]
    return case._replace(block=spec.get("block", case.block)), config(case.name, **changes)


def initial_weights(spec: dict) -> Weights:
    """The library's initial weights of one model, from which all competitors start."""
    from jaxae import rng
    from jaxae.devices import members
    from jaxae.methods import learners
    from jaxae.training import train

    case, cfg = _parse(spec)
    learner = learners.build(cfg, case.shape, axis=None)
    keys = members.keys(rng.stream(0, rng.Purpose.INIT), 1)
    return flatten(members.pick(train.initial_state(learner, case.shape, keys).params, 0))


def jaxae(spec: dict, weights: Weights) -> Program:
    """The library as its experiments run it: many steps in one dispatch, on resident rows."""
    import jax

    from jaxae.devices import members, parallel
    from jaxae.errors import UserError
    from jaxae.methods import learners
    from jaxae.scoring import SCORES
    from jaxae.training import train as training
    from jaxae.types import Inferred

    case, cfg = _parse(spec)
    if _precision(spec) != "default":
        cfg = replace(cfg, ["train", "precision"], _precision(spec))
    learner = learners.build(cfg, case.shape)
    tuned = learner.tuning._replace(**spec.get("tuning", {}))
    learner = learner._replace(tuning=tuned)
    try:
        devices = training.devices_for(learner, cfg, case.shape)
    except UserError as error:
        raise Unavailable(str(error)) from None
    order = _order(case, cfg.train.batch_size)
    # Every device has a copy of the rows and its own columns of the plan.
    x, transfer = placed(
        rows(case, order.size), lambda a: jax.block_until_ready(parallel.place(a, devices))
    )
    split = lambda plan: parallel.split(  # noqa: E731
        np.ascontiguousarray(plan.reshape(len(plan), len(devices), -1).swapaxes(0, 1), np.int32),
        devices,
    )

    def start(learner):
        """The state of all members at the given weights, with keys and settings as in runs."""
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
        with _exact(devices[0]):
            new, metrics = parallel.epoch_fn(once, devices)(
                at_weights, parallel.place(sample, devices), index, *others
            )
        new, metrics = jax.device_get(members.pick((new.params, metrics), 0))
        after = flatten(new)
        grads = {k: (weights[k] - after[k]) / np.float32(_RATE) for k in weights}
        return {k: float(v[0]) for k, v in metrics.items()}, grads

    programs = []

    def train(steps: int) -> None:
        if steps % len(order):
            raise ValueError(f"{steps} steps are not a multiple of {len(order)}")
        if not programs:
            args = (box[0], x, plan, keys, settings)
            programs.append(parallel.compiled_epoch(learner, devices, *args))
        metrics = None
        for _ in range(steps // len(order)):
            box[0], metrics = programs[0](box[0], x, plan, keys, settings)
        jax.block_until_ready((box[0], metrics))

    mse = SCORES["mse"]

    def of_rows(variables, sample):
        found = Inferred(sample, learner.infer(variables, sample))
        return jax.vmap(mse.apply, in_axes=(None, 0))({}, found)

    # As in experiments: scoring has no batch to keep together, so it uses every device.
    judges = devices if spec["devices"] else jax.local_devices()
    scorer = parallel.rows_fn(of_rows, judges, learner)
    scored, blocks = rows(case, _scored(judges[0].platform)), {}

    def score(chunk: int) -> None:
        if chunk not in blocks:
            blocks[chunk] = list(parallel.blocks(scored, judges, chunk))
        placed = parallel.place(box[0].variables, judges)
        with _exact(judges[0]):
            parallel.map_rows(scorer, placed, blocks[chunk], len(scored))()

    def cost() -> dict[str, float]:
        return step_cost(cfg, case.shape)

    return Program(
        gradients, train, score, len(order), len(scored), len(devices), devices[0].device_kind,
        _versions("jax", "flax"), _jax_precision(spec), transfer, cost,
    )  # fmt: skip


def flax(spec: dict, weights: Weights) -> Program:
    """Plain Flax, with one jitted step per dispatch."""
    import jax
    import jax.numpy as jnp

    from benchmarks import reference_flax

    case, cfg = _parse(spec)
    init, gradients_of, step, score_of = reference_flax.build(case, cfg)
    order = list(jnp.asarray(_order(case, cfg.train.batch_size)))
    x, transfer = placed(
        rows(case, sum(map(len, order))), lambda a: jax.block_until_ready(jnp.asarray(a))
    )
    run = jax.jit(
        lambda state, x, rows, i, key: step(state, x[rows], jax.random.fold_in(key, i)),
        donate_argnums=0,
    )
    judge, key, device = jax.jit(score_of), jax.random.key(2), jax.local_devices()[0]
    scored = jnp.asarray(rows(case, _scored(device.platform)))
    # Jitted, so that every leaf has its own buffer, which can be donated.
    box = [jax.jit(init)(unflatten(weights))]

    def gradients(sample):
        state = init(jax.tree.map(jnp.array, unflatten(weights)))
        with _exact(device):
            losses, grads, _ = jax.jit(gradients_of)(state, sample, sample)
        return {k: float(v) for k, v in losses.items()}, flatten(grads)

    def train(steps: int) -> None:
        with _products(_precision(spec)):
            for i in range(steps):
                box[0] = run(box[0], x, order[i % len(order)], i, key)
        jax.block_until_ready(box[0])

    def score(chunk: int) -> None:
        with _exact(device):
            parts = [judge(box[0], scored[i : i + chunk]) for i in range(0, len(scored), chunk)]
        np.concatenate(parts)

    return Program(
        gradients, train, score, 0, len(scored), 1, device.device_kind,
        _versions("jax", "flax"), _jax_precision(spec), transfer,
    )  # fmt: skip


def torch(spec: dict, weights: Weights) -> Program:
    """PyTorch in one of the settings of `reference_torch`, with so many threads on a CPU."""
    import torch

    from benchmarks import reference_torch

    cuda = reference_torch.DEVICE.type == "cuda"
    if cuda and spec["threads"] != 1:
        raise Unavailable("the number of threads matters on a CPU only")
    case, cfg = _parse(spec)
    able = reference_torch.settings(case)
    if spec["setting"] not in able:
        raise Unavailable(
            f"PyTorch cannot run {case.name} as {spec['setting']} on this device, only as "
            f"{', '.join(able)}"
        )
    torch.set_num_threads(spec["threads"])
    program = reference_torch.build(case, cfg, spec["setting"], _precision(spec))
    order = torch.from_numpy(_order(case, cfg.train.batch_size)).to(reference_torch.DEVICE)
    x, transfer = placed(rows(case, order.numel()), program.prepare)
    program.load(weights)
    scored = program.prepare(rows(case, _scored(reference_torch.DEVICE.type)))
    run, score = program.trainer(x, order), program.scorer(scored)

    def gradients(sample):
        program.load(weights)
        return program.gradients(program.prepare(sample))

    def train(steps: int) -> None:
        run(steps)
        if cuda:
            torch.cuda.synchronize()

    kind = torch.cuda.get_device_name() if cuda else "cpu"
    return Program(
        gradients, train, score, program.steps, len(scored), 1, kind, _versions("torch"),
        program.precision, transfer,
    )  # fmt: skip


def keras(spec: dict, weights: Weights) -> Program:
    """TensorFlow and Keras: one function per step, with XLA, in a loop, or `fit`."""
    import tensorflow as tf

    from benchmarks import reference_keras

    case, cfg = _parse(spec)
    program = reference_keras.build(case, cfg, spec["setting"], _precision(spec))
    order = _order(case, cfg.train.batch_size)
    x, transfer = placed(rows(case, order.size), program.prepare)
    gpus = tf.config.list_physical_devices("GPU")
    scored = program.prepare(rows(case, _scored("gpu" if gpus else "cpu")))
    program.load(weights)

    def gradients(sample):
        program.load(weights)
        return program.gradients(program.prepare(sample))

    def train(steps: int) -> None:
        for first in range(0, steps, len(order)):
            program.train(x, order[: steps - first])
        tf.test.experimental.sync_devices()

    def score(chunk: int) -> None:
        parts = [program.score(scored[i : i + chunk]) for i in range(0, len(scored), chunk)]
        np.concatenate([part.numpy() for part in parts])

    fixed = len(order) if spec["setting"] in ("loop", "fit") else 0
    kind = tf.config.experimental.get_device_details(gpus[0])["device_name"] if gpus else "cpu"
    return Program(
        gradients, train, score, fixed, len(scored), 1, kind, _versions("tensorflow", "keras"),
        program.precision, transfer,
    )  # fmt: skip


FRAMEWORKS = {"jaxae": jaxae, "flax": flax, "torch": torch, "keras": keras}


def found(framework: str) -> dict[str, Any]:
    """The devices that "jaxae" or "torch" finds on this machine.

    Returns:
      `platform` ("cpu" or an accelerator's) and the `count` of devices; for torch also `settings`,
      those of each model in `CASES`.
    """
    if framework == "torch":
        import torch

        from benchmarks import reference_torch

        return {
            "platform": reference_torch.DEVICE.type,
            "count": torch.cuda.device_count() or 1,
            "settings": {name: reference_torch.settings(case) for name, case in CASES.items()},
        }
    import jax

    return {"platform": jax.default_backend(), "count": jax.local_device_count()}


def _versions(*names: str) -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in names}


def _jax_precision(spec: dict) -> str:
    import jax

    asked = _precision(spec)
    return jax.config.jax_default_matmul_precision or asked if asked == "default" else asked


def _products(precision: str) -> contextlib.AbstractContextManager:
    """A context for tracing programs with this precision of products; "default" = JAX's own."""
    import jax

    return (
        contextlib.nullcontext() if precision == "default"
        else jax.default_matmul_precision(precision)
    )  # fmt: skip


def _exact(device) -> contextlib.AbstractContextManager:
    """A context for tracing programs with exact products; on a CPU all products are exact."""
    return _products("default" if device.platform == "cpu" else "highest")


def step_cost(cfg, shape: tuple[int, ...]) -> dict[str, float]:
    """FLOPs of a step, independent of the device, and bytes accessed on this one."""
    from benchmarks.cost_model import flops, traced_step

    batch = cfg.train.batch_size
    found = traced_step(cfg, shape, batch).lower().compile().cost_analysis() or {}
    return {
        "flops_per_step": flops(cfg, shape, batch),
        "bytes_per_step": found.get("bytes accessed", 0.0),
    }


def peaks(size: int = 0, megabytes: int = 0) -> dict[str, float]:
    """Peak performance of this machine: a large float32 product, and a pass over a large array.

    Operands are random numbers: with ones, a device uses less power and runs at a higher clock.

    Args:
      size: N of a product of [N, N] matrices; 0 = 2,048 on a CPU, 8,192 elsewhere.
      megabytes: size of the array; 0 = 256 on a CPU, 2,048 elsewhere.

    Returns:
      `flops_per_s` (at JAX's default precision) and `bytes_per_s`; on accelerators also
      `highest_flops_per_s`, for exact products.
    """
    import jax
    import jax.numpy as jnp

    cpu = jax.default_backend() == "cpu"
    size, megabytes = size or (2048 if cpu else 8192), megabytes or (256 if cpu else 2048)
    a, b = (jax.random.normal(jax.random.key(seed), (size, size)) for seed in (0, 1))
    x = jnp.ones(megabytes << 18)
    copy = jax.jit(lambda x: x + 1)

    def best(call: Callable[[], object]) -> float:
        call()
        return min(timed(lambda: jax.block_until_ready(call())) for _ in range(7))

    def rate(precision: str) -> float:
        product = jax.jit(jnp.matmul)
        with _products(precision):
            return 2 * size**3 / best(lambda: product(a, b))

    found = {"flops_per_s": rate("default"), "bytes_per_s": 2 * x.nbytes / best(lambda: copy(x))}
    return found if cpu else found | {"highest_flops_per_s": rate("highest")}


def placed(values: np.ndarray, place: Callable[[np.ndarray], Any]) -> tuple[Any, float]:
    """Rows placed where a framework needs them, and the seconds that it took."""
    start = time.perf_counter()
    return place(values), time.perf_counter() - start


def timed(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
