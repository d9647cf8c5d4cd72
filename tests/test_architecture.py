"""Which module may use what: the layers of the package, enforced on its source."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

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


# Level 0 and 1 in full; above them what must stay apart.
ALLOWED = {
    "errors": set(),
    "types": set(),
    "checks": {"errors"},
    "config": {"checks", "errors"},
    "rng": {"types"},
    "metrics": {"types"},
    "filters": {"types"},
    "corruptions": {"types", "errors", "rng", "filters"},
    "scoring": {"types", "errors", "filters"},
    "runlog": {"config", "errors"},
    "checkpoint": {"config", "errors", "types"},
    "parallel": {"types", "errors", "config"},
}
APART = {
    "learners": {"parallel", "train", "evaluation", "runlog", "checkpoint", "plots", "data"},
    "adversarial": {"parallel", "train", "evaluation", "config", "learners"},
    "train": {"learners", "evaluation", "runlog", "checkpoint", "plots"},
    "evaluation": {"learners", "train", "runlog", "checkpoint", "plots"},
    "data": {"learners", "train", "evaluation", "parallel"},
}


@pytest.mark.parametrize("name", ALLOWED)
def test_lower_modules_import_only_what_lies_below_them(name):
    assert ours(f"jaxae.{name}") <= ALLOWED[name]


@pytest.mark.parametrize("name", APART)
def test_modules_that_stay_apart(name):
    assert not ours(f"jaxae.{name}") & APART[name]


def test_models_know_no_configuration_and_no_training():
    for name in MODULES:
        if name.startswith("jaxae.models."):
            above = {used for used in ours(name) if not used.startswith("models.")}
            assert {used.split(".")[0] for used in above} <= {"types", "errors", "ops"}, name


def test_plots_need_neither_jax_nor_the_rest_of_the_package():
    for name in MODULES:
        if name.startswith("jaxae.plots"):
            assert {used for used in ours(name) if not used.startswith("plots")} <= {"errors"}, name
    assert not {name for name in users_of("jax") if name.startswith("jaxae.plots")}


@pytest.mark.parametrize(
    ("package", "homes"),
    [
        ("orbax", ("jaxae.checkpoint",)),
        ("tensorflow_datasets", ("jaxae.datasets.",)),
        ("matplotlib", ("jaxae.plots",)),
        ("tyro", ("jaxae.config",)),
        ("tqdm", ("jaxae.train",)),
        ("optax", ("jaxae.learners", "jaxae.adversarial")),
        ("flax", ("jaxae.models.", "jaxae.types")),
    ],
)
def test_each_package_has_its_place(package, homes):
    users = users_of(package)
    assert users, "the place has moved"
    assert {name for name in users if not name.startswith(homes)} == set()


def test_only_one_module_knows_pmap():
    def calls_pmap(path):
        return any(
            (isinstance(node, ast.Attribute) and node.attr == "pmap")
            or (isinstance(node, ast.alias) and node.name == "pmap")
            for node in ast.walk(parsed(path))
        )

    assert {name for name, path in MODULES.items() if calls_pmap(path)} == {"jaxae.parallel"}


def test_the_package_does_not_import_what_uses_it():
    for package in ("experiments", "benchmarks", "tests", "pytest", "torch", "tensorflow", "keras"):
        assert users_of(package) == set()


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_read_in_one_sitting(name):
    text = MODULES[name].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 320
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), "says what it is for"


@pytest.mark.parametrize("package", ["matplotlib", "tensorflow_datasets", "sklearn", "tyro"])
def test_heavy_packages_are_imported_inside_functions(package):
    for name in users_of(package):
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


def test_starting_an_experiment_loads_no_heavy_package():
    code = (
        "import sys, jaxae.experiment\n"
        "heavy = {'matplotlib', 'tensorflow_datasets', 'sklearn', 'tensorflow', 'torch'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.strip() == "[]"
