"""Settings that make tests strict: four CPU devices, shapes checked, no silent broadcasting.

On an accelerator, `JAX_PLATFORMS=cuda,cpu python -m pytest -m device` runs what makes sense there;
what takes more devices than there are is skipped.
"""

import gc
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

import jax  # noqa: E402 - after the environment that it reads
import pytest  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

# The shapes that signatures state hold in every test. Configurations are left out: what they are
# given is wrong by intention, and `jaxae.config.checks` says so in words of its own; of an
# estimator, scikit-learn's suite.
UNCHECKED = (
    "jaxae.__main__",
    "jaxae.config.checks",
    "jaxae.config.schema",
    "jaxae.estimator",
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


def pytest_runtest_setup(item):
    """Compile in half the time where speed is not the point.

    The slow tests, the convolutions and the parity with other frameworks get the programs that
    users get; every other property must hold at any level of optimisation.
    """
    as_users = item.get_closest_marker("slow") or item.module.__name__ in (
        "test_ops",
        "test_parity",
    )
    jax.config.update("jax_disable_most_optimizations", not as_users)
