"""Killed at any moment, a run or a protocol ends with the parameters of one that was not disturbed.

Each attempt is a fork of one process that has loaded everything and computed nothing, so that a
kill costs a second. `JAXAE_KILLS` sets how many there are of each kind.
"""

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxae import detectors

ROOT = Path(__file__).parents[1]
SHARED = "JAX_COMPILATION_CACHE_DIR"
KILLS = int(os.environ.get("JAXAE_KILLS", "3"))

# Runs a command in forks of itself until it ends: kills the first ones, at moments that a kind and
# a seed choose. Nothing but jaxae's own commands writes to the folder.
ATTEMPTS = """
import os, random, shutil, signal, sys, time, warnings
from pathlib import Path

from jaxae.cli import main as cli; from jaxae.workflows import experiment, protocol

kind, kills, seed, took, folder = sys.argv[1], *map(float, sys.argv[2:5]), Path(sys.argv[5])
args, moments = sys.argv[6:], random.Random(int(seed))
warnings.simplefilter("ignore")  # a fork of threads: none has begun


def begun():
    if kind == "save":
        return any(folder.glob("checkpoints/**/*.orbax-checkpoint-tmp*"))
    return any((folder / "detector").glob("*")) or any((folder / "figures").glob("*"))


def attempt(kill):
    child = os.fork()
    if not child:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        cli.main(args)
        os._exit(0)
    start = time.monotonic()
    wait = moments.uniform(0.0, took) if kind == "any" else moments.uniform(0.0, 0.03)
    while kill:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False  # it was at its end
        due = kind == "any" or begun()
        if due and (kind != "any" or time.monotonic() - start > wait):
            time.sleep(wait if kind != "any" else 0)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return True
        time.sleep(0.0005)
    assert os.waitpid(child, 0)[1] == 0
    return False


killed = tried = 0
while killed < kills and tried < 4 * kills:
    if attempt(True):
        killed += 1
    else:  # it was at its end: another one
        shutil.rmtree(folder)
    tried += 1
start = time.monotonic()
attempt(False)
print(killed, time.monotonic() - start)
"""

_RUN = "train --data.name digits --data.normal 0 --data.limit 64 --train.batch-size 32 --score mse "
_RUN += "--data.input none --train.checkpoint-every 1"
_GRID = "run one_vs_rest --data.name digits --classes 0 1 --seeds 1 --data.limit 64 --score mse "
_GRID += "--data.input none --train.batch-size 32 --train.checkpoint-every 1 --baselines pca"
_SIGMOID = "--model.output-activation sigmoid"
COMMANDS = {
    "dense": f"{_RUN} --method dense --model.latent 4 {_SIGMOID} --train.epochs 30",
    "conv": f"{_RUN} --method conv --model.filters 4 8 --model.latent 4 {_SIGMOID} "
    "--train.epochs 30",
    "alocc": f"{_RUN} --method alocc --devices 1 --train.epochs 6",
    "protocol of dense": f"{_GRID} --method dense --model.latent 4 --model.hidden 16 "
    "--train.epochs 30",
    "protocol of conv": f"{_GRID} --method conv --model.filters 4 8 --model.latent 4 "
    "--train.epochs 30",
    "protocol of alocc": f"{_GRID} --method alocc --devices 1 --train.no-monitor --train.epochs 4",
}


def attempts(name, kind, kills, seed, took, folder):
    """How many of the kills hit the run, and the seconds that its last attempt took."""
    # What a kill leaves half written stays out of the programs that all tests share.
    env = {name: value for name, value in os.environ.items() if name != SHARED}
    done = subprocess.run(
        [
            *(sys.executable, "-c", ATTEMPTS, kind, str(kills), str(seed), str(took), str(folder)),
            *(*COMMANDS[name].split(), "--run-dir", str(folder)),
        ],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    killed, seconds = done.stdout.split()[-2:]
    return int(killed), float(seconds)


def digest(folder):
    """Of all parameters and all scores, of a run or of a protocol's members."""
    import jax

    found = hashlib.sha256()
    for path in sorted(folder.rglob("scores.npz")):
        for leaf in jax.tree.leaves(detectors.load(path.parent / "detector").variables):
            found.update(np.asarray(leaf).tobytes())
        with np.load(path) as stored:
            for name in sorted(stored):
                found.update(stored[name].tobytes())
    return found.hexdigest()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Name of a command -> digest without a kill, and the seconds it takes with a warm cache."""
    known = {}

    def of(name):
        if name not in known:
            folder = tmp_path_factory.mktemp(name.replace(" ", "-"))
            attempts(name, "any", 0, 0, 0, folder / "cold")
            _, seconds = attempts(name, "any", 0, 0, 0, folder / "run")
            assert digest(folder / "cold") == digest(folder / "run"), "twice the same"
            known[name] = digest(folder / "run"), seconds
        return known[name]

    return of


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="starts by forking")
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name in COMMANDS
        for kind in ("any", "save", "end")
        if kind == "any" or "protocol" not in name  # one kind of kill for each, to save time
    ],
)
def test_a_run_that_is_killed_ends_as_if_nothing_had_been(name, kind, undisturbed, tmp_path):
    expected, seconds = undisturbed(name)
    seed = random.randrange(1000)
    killed, _ = attempts(name, kind, KILLS, seed, seconds, tmp_path / "run")
    print(f"{name}, {kind}: killed {killed} times of {KILLS}, moments of seed {seed}")
    assert killed == KILLS
    assert digest(tmp_path / "run") == expected, f"seed {seed}"
    left = [path for path in (tmp_path / "run").rglob("*") if "tmp" in path.name]
    assert not left, "what was half-written has gone"
