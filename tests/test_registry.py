import pytest

from jaxae.data import DATASETS
from jaxae.errors import UserError
from jaxae.methods.adversarial import ADVERSARIAL
from jaxae.methods.learners import METHODS
from jaxae.methods.networks.init import ACTIVATIONS, INITS
from jaxae.methods.optimisers import OPTIMISERS
from jaxae.registry import Registry
from jaxae.reports.studies import STUDIES
from jaxae.scoring import LOSSES, RULES, SCORES

ALL = (
    ACTIVATIONS,
    ADVERSARIAL,
    DATASETS,
    INITS,
    LOSSES,
    METHODS,
    OPTIMISERS,
    RULES,
    SCORES,
    STUDIES,
)
by_kind = pytest.mark.parametrize("registry", ALL, ids=lambda registry: registry.kind)


@pytest.fixture
def numbers():
    return Registry("number", int, {"one": 1, "two": 2})


def test_an_unknown_name_lists_the_known_ones(numbers):
    with pytest.raises(UserError, match=r"^unknown number 'ten'; known: one, two$"):
        numbers["ten"]


def test_an_entry_is_found_by_its_name(numbers):
    assert numbers["one"] == 1
    assert list(numbers) == ["one", "two"]


def test_asking_whether_a_name_is_there_enters_nothing(numbers):
    assert "ten" not in numbers
    assert numbers.get("ten") is None
    with pytest.raises(UserError):
        numbers["ten"]
    assert list(numbers) == ["one", "two"]


def test_what_is_added_is_found_and_returned(numbers):
    assert numbers.add("ten_10", 10) == 10
    assert numbers["ten_10"] == 10
    with pytest.raises(UserError, match="known: one, ten_10, two"):
        numbers["three"]


def test_a_taken_name_is_refused_and_keeps_its_entry(numbers):
    with pytest.raises(UserError, match="number 'one' already exists"):
        numbers.add("one", 11)
    assert numbers["one"] == 1


@pytest.mark.parametrize("name", ["", "a+b", "a:b", "a b", "+", ":0.5"])
def test_a_name_that_no_configuration_can_hold_is_refused(name, numbers):
    with pytest.raises(UserError, match="cannot name a number"):
        numbers.add(name, 3)
    assert name not in numbers


@pytest.mark.parametrize("entry", ["three", 3.0, None, int])
def test_an_entry_of_another_type_is_refused(entry, numbers):
    with pytest.raises(UserError, match=rf"'three' must be a int, not {type(entry).__name__}"):
        numbers.add("three", entry)
    assert "three" not in numbers


@by_kind
def test_the_packages_own_entries_could_have_been_added(registry):
    """Names that a configuration can hold, entries of the type that the registry asks for."""
    again = Registry(registry.kind, registry.entry_type, {})
    for name, entry in registry.items():
        assert again.add(name, entry) is entry
    assert again == registry


@by_kind
def test_each_registry_says_what_it_holds(registry):
    names = ", ".join(sorted(registry))
    with pytest.raises(UserError) as refused:
        registry["no such name"]
    assert str(refused.value) == f"unknown {registry.kind} 'no such name'; known: {names}"


@by_kind
def test_no_registry_takes_a_text_for_an_entry(registry):
    with pytest.raises(UserError, match=f"{registry.kind} 'odd' must be .*, not str"):
        registry.add("odd", "text")
    assert "odd" not in registry
