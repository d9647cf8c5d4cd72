"""Model the time of a training step on this machine, and predict it for other devices.

    python -m benchmarks.scaling                     # measures: build/scaling.jsonl
    python -m benchmarks.cost_model                  # fits, predicts, prints

On this machine, a step on D devices with a global batch B takes

    t(B, D) = fixed + row * B / D + reduce(D)

with constants fitted to measurements. On other devices (the last line only if D > 1),

    t(B, D) = kernels * launch + max(flops / (share * peak), bytes / bandwidth)
              + collectives * latency + 2 (D - 1) / D * reduced / link

where kernels, bytes, collectives and reduced bytes are counted in the program that XLA compiles for
these devices (`benchmarks.accelerators`). The other constants in `TARGETS` are the manufacturers'
or, if none are published, assumptions.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import accelerators
from benchmarks.cases import CASES, config


class Target(NamedTuple):
    """A kind of device to predict for.

    Attributes:
      kind: a key of `accelerators.KINDS`.
      count: number of devices.
      hosts: number of hosts.
      peak: FLOP/s of float32 products at JAX's default precision.
      bandwidth: memory bandwidth, bytes per second.
      link: bandwidth to the other devices, bytes per second in each direction.
      launch: minimal time of an operation in seconds; assumed.
      latency: time of the smallest reduction over all devices in seconds; assumed.
    """

    kind: str
    count: int
    hosts: int
    peak: float
    bandwidth: float
    link: float
    launch: float
    latency: float


# NVIDIA's data sheet of the H100 (SXM: TF32 without sparsity, HBM3, NVLink) and Google Cloud's page
# on the v5e (one pass of bfloat16; links of 1,600 Gbit/s a chip, half of them each way).
TARGETS = (
    Target("H100", 8, 1, 494e12, 3.35e12, 450e9, 2.5e-6, 15e-6),
    Target("TPU v5e", 256, 64, 197e12, 0.819e12, 100e9, 0.4e-6, 40e-6),
)
SHARE = 0.3  # share of the peak that products of these sizes reach; assumed


class Constants(NamedTuple):
    """Constants of one model on this machine in seconds; `error` is the largest relative error."""

    fixed: float
    row: float
    error: float


def fit(batches: Sequence[int], seconds: Sequence[float]) -> Constants:
    """Fit `fixed + row * batch` by least squares of the relative error; neither is negative."""
    b, t = np.asarray(batches, float), np.asarray(seconds, float)
    design = np.stack([1 / t, b / t], axis=1)
    fixed, row = np.linalg.lstsq(design, np.ones_like(t), rcond=None)[0]
    if fixed < 0:
        fixed, row = 0.0, (b / t).sum() / ((b / t) ** 2).sum()
    elif row < 0:
        fixed, row = (1 / t).sum() / ((1 / t) ** 2).sum(), 0.0
    return Constants(float(fixed), float(row), float(abs((fixed + row * b) / t - 1).max()))


class Step(NamedTuple):
    """The work of one device in one step: floating point operations, and a `Body`."""

    flops: float
    body: accelerators.Body


def seconds(step: Step, target: Target, devices: int) -> float:
    """The predicted time of a step, by the formula above."""
    work = step.body
    busy = max(step.flops / (SHARE * target.peak), work.bytes / target.bandwidth)
    alone = work.kernels * target.launch + busy
    if devices == 1:
        return alone
    ring = 2 * (devices - 1) / devices * work.reduced / target.link
    return alone + work.collectives * target.latency + ring


def step_of(model: str, target: Target, count: int, batch: int) -> Step:
    """A model's training step at a global batch size on `count` devices of a target."""
    cfg, shape = config(model, **{"train.batch_size": batch}), CASES[model].shape
    hosts = max(1, count * target.hosts // target.count)
    devices = accelerators.devices(target.kind, count, hosts)
    # As few resident rows as possible: a gather counts all of them as read.
    program = accelerators.epoch(cfg, shape, devices, count=batch // count).compile()
    return Step(flops(cfg, shape, batch // count), accelerators.body(program.as_text()))


def flops(cfg, shape: tuple[int, ...], batch: int) -> float:
    """FLOPs of a step on one device, as XLA counts them in the program for accelerators."""
    traced = traced_step(cfg, shape, batch)
    return traced.lower(lowering_platforms=("cuda",)).cost_analysis()["flops"]


def traced_step(cfg, shape: tuple[int, ...], batch: int) -> Any:
    """A traced step on one device; `.lower()` and `.compile()` turn it into a program."""
    import jax
    import jax.numpy as jnp

    from jaxae.methods import learners
    from jaxae.training import train
    from jaxae.types import Batch

    learner = learners.build(cfg, shape, axis=None)
    state = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype),
        train.abstract_state(learner, shape, 1),
    )
    rows = jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
    slot = jax.ShapeDtypeStruct((batch,), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    rates = dict.fromkeys(learner.settings, jax.ShapeDtypeStruct((), jnp.float32))
    return jax.jit(learner.step).trace(state, Batch(rows, slot), key, rates)


def prediction(model: str, target: Target) -> str:
    """A table row: one device, and all devices with the same global batch or one batch each."""
    batch, many = config(model).train.batch_size, target.count
    work = step_of(model, target, 1, batch)
    one = seconds(work, target, 1)
    grown = step_of(model, target, many, batch * many)
    weak = seconds(grown, target, many)
    shared = "-"
    if batch % many == 0:
        strong = seconds(step_of(model, target, many, batch), target, many)
        shared = f"{1 / strong:,.0f} ({one / strong / many:.0%})"
    return (
        f"| {model} | {batch} | {many} {target.kind} | {work.flops / 1e6:,.0f} | "
        f"{work.body.kernels} | {grown.body.collectives} | {grown.body.reduced / 1e3:,.0f} | "
        f"{1 / one:,.0f} | {shared} | {1 / weak:,.0f} ({one / weak:.0%}) |"
    )


_HEAD = (
    "| model | batch | devices | MFLOP/step | kernels | collectives | kB reduced | steps/s of one "
    "| of all, same batch (efficiency) | of all, this batch each (efficiency) |"
)


def measured(records: list[dict], model: str) -> list[str]:
    """Lines about one model from the results of `benchmarks.scaling`."""
    own = [r for r in records if r["model"] == model and r["framework"] == "jaxae"]

    def times(study: str, setting: str) -> dict[int, float]:
        """Seconds per step, by the value on the x axis."""
        found = {}
        for r in own:
            if (r["study"], r["setting"]) == (study, setting):
                rows = r["batch"] * r.get("ensemble", 1)
                found[r["x"]] = rows / statistics.median(r["examples_per_s"])
        return found

    lines = []
    by_batch = times("batch", "one device")
    if len(by_batch) > 1:
        c = fit(list(by_batch), list(by_batch.values()))
        lines.append(
            f"one device: {1e6 * c.fixed:.0f} us + {1e6 * c.row:.2f} us a row (within "
            f"{c.error:.0%} from {min(by_batch)} to {max(by_batch)} rows)"
        )
        batch = config(model).train.batch_size
        for count, took in times("devices", "same batch").items():
            if count > 1:
                expected = c.fixed + c.row * batch / count
                lines.append(
                    f"{count} devices: reducing takes {1e6 * max(0, took - expected):.0f} us of "
                    f"{1e6 * took:.0f}"
                )
    members = times("ensemble", "jaxae")
    if len(members) > 1:
        c = fit(list(members), list(members.values()))
        lines.append(
            f"members: {1e6 * c.fixed:.0f} us + {1e6 * c.row:.0f} us each (within {c.error:.0%})"
        )
    return lines


def main(args: list[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--models", nargs="+", choices=CASES, metavar="MODEL", default=list(CASES))
    parser.add_argument("--measured", type=Path, default=Path("build/scaling.jsonl"))
    options = parser.parse_args(args)
    if options.measured.is_file():
        records = [json.loads(line) for line in options.measured.read_text().splitlines()]
        for model in options.models:
            for line in measured(records, model):
                print(f"{model}, {line}")
    else:
        print(f"{options.measured} does not exist; python -m benchmarks.scaling writes it")
    columns = _HEAD.count("|") - 1
    print("", _HEAD, "| " + " | ".join(["---"] * columns) + " |", sep="\n")
    for model in options.models:
        for target in TARGETS:
            try:
                print(prediction(model, target), flush=True)
            except RuntimeError as error:
                print(f"left out {target.kind}: {error}")
                return


if __name__ == "__main__":
    main()
