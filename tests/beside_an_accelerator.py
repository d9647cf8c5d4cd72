"""How many programs an experiment compiles for an accelerator, and how many for the CPU beside it.

    python tests/beside_an_accelerator.py digits_conv | one_vs_rest

Of two CPU devices the first says that it is a GPU, so that jaxae treats it as one; XLA, which is
not deceived, compiles for a CPU. Programs are counted by the device for which they are compiled.
The last line is JSON. A process of its own, since nothing that it changes could be put back.
"""

import collections
import contextlib
import dataclasses
import importlib
import io
import json
import sys
import tempfile

import jax
from jax._src import compiler


def deceive():
    """The first device plays a GPU, the second one is the CPU beside it."""
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_enable_compilation_cache", False)
    accelerator, cpu = jax.devices()
    type(accelerator).platform = property(lambda self: "cpu" if self.id else "gpu")

    def devices(*args, backend=None, **kwargs):
        return [cpu] if "cpu" in (*args, backend) else [accelerator]

    jax.devices = jax.local_devices = devices


def counted():
    """A counter of compiled programs by the number of their device."""
    found, compile_ = collections.Counter(), compiler.compile_or_get_cached

    def counting(backend, computation, devices, *args, **kwargs):
        found[int(devices.ravel()[0].id)] += 1
        return compile_(backend, computation, devices, *args, **kwargs)

    compiler.compile_or_get_cached = counting
    return found


def run(name, folder):
    """Two epochs of an experiment; ten members of one seed of the protocol."""
    module = importlib.import_module(f"experiments.{name}")
    if name == "digits_conv":
        from jaxae.workflows import experiment

        cfg, start = module.CONFIG, experiment.run
    else:
        from jaxae.workflows import protocol

        cfg, start = dataclasses.replace(module.RECIPES["dense"], seeds=1), protocol.run
        cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, name="digits"))
    train = dataclasses.replace(cfg.train, epochs=2)
    start(dataclasses.replace(cfg, run_dir=f"{folder}/run", train=train))


if __name__ == "__main__":
    sys.path.insert(0, "")
    deceive()
    programs = counted()
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
        run(sys.argv[1], scratch)
    print(json.dumps({"accelerator": programs[0], "cpu": programs[1]}))
