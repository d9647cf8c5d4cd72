"""Which module may use what: the order of the wings, enforced on the source."""

import ast
import graphlib
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import jaxae

ROOT = Path(__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "jaxae").rglob("*.py"))
}


def imports(tree):
    """Full names of everything imported below a node."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(tree):
    """Every function and method below a node."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def users_of(package):
    """Modules that import a package, anywhere in them."""
    return {
        name
        for name, path in MODULES.items()
        if any(found.split(".")[0] == package for found in imports(parsed(path)))
    }


def ours(name):
    """The modules of jaxae that a module imports."""
    found = set()
    for imported in imports(parsed(MODULES[name])):
        if imported.split(".")[0] == "jaxae":
            module = imported if imported in MODULES else imported.rpartition(".")[0]
            found.add(module.removeprefix("jaxae."))
    return found - {"jaxae"}


def home(name):
    """The wing, or the module right below jaxae, that a module is part of."""
    return name.removeprefix("jaxae.").split(".")[0]


# From the ground up: what is imported stands above what imports it; inside a wing any order will do
# that has no circle. `jaxae` itself has lazy names only.
WINGS = (
    "ops",
    "errors",
    "types",
    "registry",
    "rng",
    "config",
    "devices",
    "stats",
    "data",
    "scoring",
    "methods",
    "storage",
    "detectors",
    "training",
    "reports",
    "export",
    "workflows",
    "estimators",
    "cli",
    "__main__",
    "jaxae",
)
# What stands above and is still none of a module's business.
APART = {
    "methods": {"devices.parallel", "data.own", "data.published", "data.splits"},
    "methods.reconstruction": {"config"},
    "methods.adversarial": {"config"},
    "training.train": {"storage"},
    "training.feeds": {"storage"},
    "training.grid": {"storage"},
    "detectors.evaluation": {"config", "storage"},
    "data": {"devices.parallel"},
    "storage": {"methods", "scoring", "stats", "data.corruptions"},
    "export": {"training", "reports"},
    "export.loader": {*WINGS},
}


def within(name, part):
    """Whether a module is a part of jaxae, or lies in it."""
    return f"{name.removeprefix('jaxae.')}.".startswith(f"{part}.")


def test_every_module_has_its_wing():
    assert sorted(WINGS) == sorted({home(name) for name in MODULES})


def test_the_package_is_seen_at_one_glance():
    entries = {path.name for path in (ROOT / "jaxae").iterdir()} - {"__pycache__", "experiments"}
    assert len(entries) <= 22


def test_no_wing_takes_the_name_of_a_public_function():
    assert not {*WINGS} & {*jaxae.__all__}  # importing it would overwrite the function


def test_no_module_takes_the_name_of_a_function_that_its_package_offers():
    for name, path in MODULES.items():
        package = importlib.import_module(name) if path.name == "__init__.py" else None
        for public in getattr(package, "__all__", ()):
            if f"{name}.{public}" in MODULES:  # offered as the module that it is
                assert getattr(package, public) is importlib.import_module(f"{name}.{public}")


def test_every_import_goes_down():
    height = {wing: i for i, wing in enumerate(WINGS)}
    assert not {
        (name, used)
        for name in MODULES
        for used in ours(name)
        if height[home(used)] > height[home(name)]
    }


def test_no_import_goes_round_in_a_circle():
    graph = {name: {f"jaxae.{used}" for used in ours(name)} for name in MODULES}
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert set(order) == set(MODULES)


@pytest.mark.parametrize("part", APART)
def test_modules_that_stay_apart(part):
    members = [name for name in MODULES if within(name, part)]
    assert members, "the place has moved"
    used = {used for name in members for used in ours(name)}
    assert not {used for used in used if any(within(used, other) for other in APART[part])}


@pytest.mark.parametrize(
    "wing", ["cli", "devices", "export", "reports", "stats", "storage", "workflows"]
)
def test_wings_that_load_nothing_by_themselves(wing):
    assert not list(imports(parsed(MODULES[f"jaxae.{wing}"])))


def test_networks_know_no_configuration_and_no_training():
    below = {used for name in MODULES if within(name, "methods.networks") for used in ours(name)}
    allowed = ("types", "errors", "registry", "ops", "methods.networks")
    assert {used for used in below if not any(within(used, part) for part in allowed)} == set()


def test_plots_need_neither_jax_nor_the_rest_of_the_package():
    plots = {name for name in MODULES if within(name, "reports.plots")}
    for name in plots:
        others = {used for used in ours(name) if not within(used, "reports.plots")}
        assert others <= {"errors", "stats.curve", "stats.ranges", "storage.disk"}, name
    assert not users_of("jax") & plots
    assert ours("jaxae.stats.curve") == ours("jaxae.stats.ranges") == set()
    assert (
        loaded("import jaxae.reports.plots.detection, jaxae.reports.plots.series", {"jax"}) == set()
    )


@pytest.mark.parametrize(
    ("package", "homes"),
    [
        ("orbax", ("jaxae.storage.checkpoint",)),
        ("tensorflow_datasets", ("jaxae.data.published.",)),
        ("matplotlib", ("jaxae.reports.plots",)),
        ("tyro", ("jaxae.config.parsing",)),
        ("tqdm", ("jaxae.training.train",)),
        (
            "optax",
            (
                "jaxae.methods.optimisers",
                "jaxae.methods.reconstruction",
                "jaxae.methods.adversarial",
            ),
        ),
        ("flax", ("jaxae.methods.networks.", "jaxae.storage.archive", "jaxae.types")),
    ],
)
def test_each_package_has_its_place(package, homes):
    users = users_of(package)
    assert users, "the place has moved"
    assert {name for name in users if not name.startswith(homes)} == set()


def test_only_the_drivers_know_pmap_and_shard_map():
    def calls_pmap(path):
        return any(
            (isinstance(node, ast.Attribute) and node.attr in ("pmap", "shard_map"))
            or (isinstance(node, ast.alias) and node.name in ("pmap", "shard_map"))
            for node in ast.walk(parsed(path))
        )

    assert {name for name, path in MODULES.items() if calls_pmap(path)} == {
        "jaxae.devices.parallel.drivers"
    }


def test_the_package_does_not_import_what_uses_it():
    for package in ("experiments", "benchmarks", "tests", "pytest", "torch", "tensorflow", "keras"):
        assert users_of(package) == set()


def test_shapes_are_checked_by_tests_and_not_by_the_package():
    assert users_of("beartype") == set()


ORDERED = (ast.Gt, ast.GtE, ast.Lt, ast.LtE)


def names_in(node):
    """The names, attributes and keys that an expression mentions."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name):
            yield inner.id
        elif isinstance(inner, ast.Attribute):
            yield inner.attr
        elif isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            yield inner.value


def compares_with_a_threshold(node):
    return (
        isinstance(node, ast.Compare)
        and any(isinstance(sign, ORDERED) for sign in node.ops)
        and any("threshold" in name for name in names_in(node))
    )


def test_scores_are_compared_with_thresholds_in_one_place():
    found = {
        (name, function.name)
        for name, path in MODULES.items()
        for function in functions(parsed(path))
        if any(compares_with_a_threshold(node) for node in ast.walk(function))
    }
    assert found == {
        ("jaxae.types", "above_threshold"),  # what a rule decides unless it says otherwise
        ("jaxae.reports.plots.style", "verdict"),  # only the sign between the two numbers
        ("jaxae.reports.studies.detection", "batch_threshold"),  # the other rule, of the article
    }
    of_modules = {
        name
        for name, path in MODULES.items()
        if any(compares_with_a_threshold(node) for node in ast.walk(parsed(path)))
    }
    assert of_modules == {name for name, _ in found}, "outside of a function"


WRITERS = {
    *("write_text", "write_bytes", "savez", "savez_compressed", "savetxt", "tofile", "savefig"),
    *("print_png", "ZipFile", "NamedTemporaryFile", "TemporaryFile"),
}


def writes_a_file(node):
    """Whether an expression calls what opens a file for writing; our own writers do not count."""
    if not isinstance(node, ast.Call):
        return False
    function = node.func
    of = function.value.id if isinstance(getattr(function, "value", None), ast.Name) else ""
    name = getattr(function, "attr", getattr(function, "id", ""))
    if name in ("open", "fdopen"):
        modes = [*node.args, *(word.value for word in node.keywords if word.arg == "mode")]
        texts = [mode.value for mode in modes if isinstance(mode, ast.Constant)]
        return any({*text} <= {*"rwaxbt+"} and {*text} & {*"wax+"} for text in map(str, texts))
    if (of, name) == ("np", "save"):
        return True
    is_ours = of == "disk" or isinstance(function, ast.Name)
    return name in WRITERS and not is_ours and not (name == "ZipFile" and len(node.args) == 1)


def test_files_are_written_in_one_place():
    """Whole or not at all, by `storage.disk`; other places write no file that is kept."""
    found = {
        (name.removeprefix("jaxae."), function.name)
        for name, path in MODULES.items()
        for function in functions(parsed(path))
        if any(writes_a_file(node) for node in ast.walk(function))
    }
    kept = {(name, function) for name, function in found if name != "storage.disk"}
    assert ("storage.disk", "write_bytes") in found
    assert kept <= {
        ("devices.hosts", "join"),  # what other processes print goes nowhere
        ("devices.hosts", "watch"),  # what C++ prints, in a temporary file
        ("export.checking", "unpacked"),  # an export, in a temporary folder
        ("export.exporting", "write"),  # in memory
        ("export.loader", "_write"),  # stands alone, and renames what is whole
        ("reports.plots.style", "save"),  # under the temporary name of `disk.atomic`
        ("storage.run_folder", "locked"),  # an empty file that stays
    }


@pytest.mark.parametrize("name", MODULES)
def test_a_module_says_what_it_is_for(name):
    text = MODULES[name].read_text(encoding="utf-8")
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), "says what it is for"


def test_a_function_is_read_on_one_screen():
    long = {
        (name, function.name)
        for name, path in MODULES.items()
        for function in functions(parsed(path))
        if function.end_lineno - function.lineno + 1 > 60
    }
    assert not long


@pytest.mark.parametrize(
    "package", ["matplotlib", "tensorflow_datasets", "sklearn", "tyro", "pyarrow", "PIL"]
)
def test_heavy_packages_are_imported_inside_functions(package):
    # An estimator of scikit-learn is one by its class; `jaxae` loads it when it is asked for.
    for name in users_of(package):
        if name.startswith("jaxae.estimators"):
            continue
        tree = parsed(MODULES[name])
        lazy = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef)
            for inner in ast.walk(node)
        }
        eager = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            and id(node) not in lazy
            and any(found.split(".")[0] == package for found in imports(node))
        ]
        assert not eager, f"{name} imports {package} when it is loaded"


def loaded(statement, packages):
    """Which of these packages a fresh Python has after a statement."""
    code = f"import sys\n{statement}\nprint(*sorted({packages!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return set(done.stdout.split())


def test_starting_an_experiment_loads_no_heavy_package():
    heavy = {"matplotlib", "tensorflow_datasets", "sklearn", "tensorflow", "torch", "beartype"}
    assert loaded("import jaxae.workflows.experiment", heavy) == set()


def test_importing_the_package_alone_loads_nothing():
    assert loaded("import jaxae", {"jax", "flax", "numpy", "jaxtyping", "beartype"}) == set()
    doors = "import jaxae.__main__, jaxae.cli.train"  # on guard before what takes long
    assert loaded(doors, {"jax", "flax", "numpy", "tyro"}) == set()
    assert loaded("import jaxae.ops", {"jax", "flax", "optax", "orbax"}) == {"jax"}


@pytest.mark.parametrize("name", jaxae.__all__)
def test_what_the_package_offers_is_there(name):
    assert getattr(jaxae, name) is not None


def test_nothing_that_is_read_can_run_code():
    """Nothing unpickles, and nothing evaluates text."""
    loaders = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle"}
    evaluators = {"eval", "exec", "compile", "__import__"}
    paths = [*MODULES.values(), *(ROOT / "experiments").glob("*.py")]
    assert not [
        path for path in paths if loaders & {n.split(".")[0] for n in imports(parsed(path))}
    ]
    for path in paths:
        for call in (node for node in ast.walk(parsed(path)) if isinstance(node, ast.Call)):
            words = {word.arg: word.value for word in call.keywords}
            assert "allow_pickle" not in words or words["allow_pickle"].value is False, path
            name = call.func.id if isinstance(call.func, ast.Name) else ""
            text = [arg.value for arg in call.args if isinstance(arg, ast.Constant)]
            assert name not in evaluators or text == [""], path  # the empty text does nothing
