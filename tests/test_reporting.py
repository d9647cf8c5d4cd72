import pytest

from experiments import results_table
from jaxae import reporting


def test_the_table_shows_an_interval_beside_what_it_is_of():
    report = {"name": "x", "auroc": 0.98765432, "n": 3, "auroc_interval": [0.9, 0.99876]}
    rule, name, auroc, n, _ = reporting.table(report).splitlines()
    assert name.split() == ["name", "x"]
    assert auroc.split() == ["auroc", "0.98765", "[0.9,", "0.9988]"]
    assert n.split() == ["n", "3"]
    assert len(rule) == len(auroc)
    assert "[" not in reporting.table(report | {"auroc_interval": None})


RUN = {"name": "ecg_dense", "seed": 0, "wall_s": 5.0, "auroc": 0.95, "auroc_interval": [0.94, 0.96]}


@pytest.mark.parametrize(
    ("others", "cell"),
    [
        ([], "| .9500 (1 seed) [.9400, .9600] |"),
        ([{"auroc": 0.97, "auroc_interval": [0.96, 0.98]}], "(2 seeds) [.9500, .9700] |"),
        ([{"auroc_interval": None}], "(2 seeds) |"),
    ],
)
def test_the_table_of_results_has_the_interval_over_rows(others, cell):
    found = results_table.table({"ecg_dense": [RUN, *(RUN | other for other in others)]})
    assert cell in found
    without = {name: value for name, value in RUN.items() if "_interval" not in name}
    assert "[" not in results_table.table({"ecg_dense": [without]})
