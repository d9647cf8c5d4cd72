"""Settings that make tests strict: four CPU devices, shapes checked, no silent broadcasting.

On an accelerator, `JAX_PLATFORMS=cuda,cpu python -m pytest -m device` runs what makes sense there;
what takes more devices than there are is skipped.
"""

import collections
import functools
import gc
import importlib.metadata
import os
import tempfile
from pathlib import Path

os.environ["JAX_PLATFORMS"] = os.environ.get("JAX_PLATFORMS", "cpu")
os.environ["MPLBACKEND"] = "Agg"
if os.environ["JAX_PLATFORMS"] != "cpu":
    # What is compared with NumPy is compared in full float32.
    os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")
# Processes that run tests side by side share an accelerator.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
ROOT = Path(__file__).parents[1] / "jaxae"
_cache = tempfile.TemporaryDirectory(prefix="jaxae-tests-")
os.environ["JAXAE_CACHE_DIR"] = _cache.name
os.environ.pop("JAXAE_TUNING", None)
# One folder of compiled programs for the whole session: workers inherit it from the process that
# starts them, tests hand it on to theirs, and each finds what another has compiled.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _programs = tempfile.TemporaryDirectory(prefix="jaxae-tests-programs-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _programs.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax  # noqa: E402 - after the environment that it reads
import pytest  # noqa: E402
from jax._src import compiler  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

# The shapes that signatures state hold in every test. Configurations are left out: what they are
# given is wrong by intention, and `jaxae.config.checks` says so in words of its own; of an
# estimator, scikit-learn's suite.
UNCHECKED = (
    "jaxae.__main__",
    "jaxae.config.checks",
    "jaxae.config.schema",
    "jaxae.estimators",
    "jaxae.reports.plots",
    "jaxae.types",
)


def checked() -> list[str]:
    """Modules and packages: the hook takes all that lies below a name."""
    paths = [path.relative_to(ROOT.parent).with_suffix("") for path in ROOT.rglob("*.py")]
    names = sorted(".".join(path.parts).removesuffix(".__init__") for path in paths)
    return [
        name
        for name in names
        if not any(f"{name}.".startswith(f"{un}.") or un.startswith(name) for un in UNCHECKED)
    ]


CHECKED = checked()
install_import_hook(CHECKED, "beartype.beartype")

# Every run records versions of packages, which are parsed from their files: once is enough.
importlib.metadata.version = functools.cache(importlib.metadata.version)
# With Python's thresholds, a tenth of the time goes into looking for garbage; these are `train`'s.
gc.set_threshold(20_000, 20, 20)

jax.config.update("jax_num_cpu_devices", int(os.environ.get("JAX_NUM_CPU_DEVICES", "4")))
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with the real raw files; tests that need it are skipped, loudly, without it."""
    folder = Path(os.environ.get("JAXAE_DATA_DIR", "../shared/data"))
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}: set JAXAE_DATA_DIR to a folder with mnist/, ...")
    return folder


@pytest.fixture(autouse=True, scope="module")
def _room_for_programs():
    """Let go of compiled programs before they are too many.

    Each takes some hundred mappings of memory, of which Linux grants a process 65,530: the next one
    would crash.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_text().count("\n") > 15_000:
        jax.clear_caches()
        gc.collect()


def pytest_configure(config):
    """What a worker finds half written is compiled once more."""
    config.addinivalue_line("filterwarnings", "ignore:Error reading persistent compilation cache")


CASES = 3  # of a slow test, where time is short


def pytest_collection_modifyitems(items):
    """Mark as `thorough` the cases of a slow test beyond three that are spread over all of them."""
    by_test = collections.defaultdict(list)
    for item in items:
        if item.get_closest_marker("slow"):
            by_test[item.nodeid.partition("[")[0]].append(item)
    for cases in by_test.values():
        kept = {i * len(cases) // CASES for i in range(CASES)}
        for i, item in enumerate(cases):
            if i not in kept:
                item.add_marker("thorough")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Tests of a file stay in one worker, up to the last minute: its fixtures are made once."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getoption("dist") == "load" else None


# Without these emitters, XLA's CPU compiler takes a third of the time; newer ones have no others. A
# small program is not worth the threads that compile its parts side by side.
QUICK = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}


def _is_known(name, value):
    """Whether this version of XLA has the option."""
    try:
        jax.jit(lambda x: x + 1).lower(1.0).compile(compiler_options={name: value})
    except Exception:
        return False
    return True


on_cpu = os.environ["JAX_PLATFORMS"] == "cpu"
QUICK = {name: value for name, value in QUICK.items() if on_cpu and _is_known(name, value)}


def _quick(options):
    """JAX's options of a compilation, with those of the test that runs."""

    def quick(*args, env_options_overrides=None, **more):
        if _in_use:
            env_options_overrides = _in_use | (env_options_overrides or {})
        return options(*args, env_options_overrides=env_options_overrides, **more)

    return quick


_in_use = {}
if hasattr(compiler, "get_compile_options"):  # JAX's own affair: without it tests take longer
    compiler.get_compile_options = _quick(compiler.get_compile_options)
_flags = os.environ.get("XLA_FLAGS", "").split()


def pytest_runtest_setup(item):
    """Compile in a fraction of the time where speed is not the point.

    What is marked `optimised` gets the programs that users get: the convolutions, the parity with
    other frameworks, detectors, exports and whole runs of each method. Every other property must
    hold at any level of optimisation. The processes that a test starts get what it gets itself.
    Two equal rankings differ by rounding without the emitters.
    """
    as_users = item.get_closest_marker("optimised")
    jax.config.update("jax_disable_most_optimizations", not as_users)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(int(not as_users))
    _in_use.clear()
    if not as_users and item.module.__name__ != "test_intervals":
        _in_use.update(QUICK)
    quick = [f"--{name}={str(on).lower()}" for name, on in _in_use.items()]
    if _flags or quick:
        os.environ["XLA_FLAGS"] = " ".join([*_flags, *quick])
    else:
        os.environ.pop("XLA_FLAGS", None)
