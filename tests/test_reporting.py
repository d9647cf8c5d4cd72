import json

import pytest

from experiments import results_table
from jaxae.reports import reporting, tables


def test_the_table_shows_an_interval_beside_what_it_is_of():
    report = {"name": "x", "auroc": 0.98765432, "n": 3, "auroc_interval": [0.9, 0.99876]}
    rule, name, auroc, n, _ = reporting.table(report).splitlines()
    assert name.split() == ["name", "x"]
    assert auroc.split() == ["auroc", "0.98765", "[0.9000,", "0.9988]"]
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


def test_runs_that_select_an_epoch_are_not_mixed_with_others(tmp_path):
    by = ("last epoch", "test labels (oracle)", "last epoch")
    for i, words in enumerate(by):
        (tmp_path / str(i)).mkdir()
        report = RUN | {"seed": i, "selected_by": words, "auroc": 0.9 + i / 100}
        (tmp_path / str(i) / "report.json").write_text(json.dumps(report))
    lines = results_table.table(results_table.read_reports(tmp_path)).splitlines()
    honest, oracle = (line for line in lines if "AUROC" in line)
    assert ".9100" in honest
    assert "(2 seeds)" in honest
    assert "oracle" not in honest
    assert "S2 dense (ECG5000), epoch by test labels (oracle)" in oracle
    assert ".9100 (1 seed)" in oracle
    assert "experiments.ecg_dense`" in oracle


def test_the_table_shows_what_is_nested():
    selection = {"last": {"epoch": 3, "auroc": 0.5}, "gap": 0.25}
    text = reporting.table({"name": "x", "selection": selection})
    assert [line.split(maxsplit=1) for line in text.splitlines()[2:-1]] == [
        ["selection.last", "epoch 3, auroc 0.5"],
        ["selection.gap", "0.25"],
    ]


def test_the_table_shows_the_beginning_of_a_digest():
    table = reporting.table({"digest": {"scores": "0a" * 32}, "name": "b" * 64 + "!"})
    assert "digest.scores  0a0a0a0a0a0a\n" in table
    assert "b" * 64 + "!" in table


def test_warnings_stand_below_the_table():
    *_, rule, warning = reporting.table({"name": "x", "warnings": ["it died"]}).splitlines()
    assert warning == "warning: it died"
    assert set(rule) == {"-"}
    assert "warning" not in reporting.table({"name": "x", "warnings": []})


def test_columns_are_as_wide_as_their_longest_cell():
    rows = [("name", "value", "note"), ("a", "10.5", ""), ("longer", "3", "x")]
    assert tables.aligned(rows, right=(1,)).splitlines() == [
        "name    value  note",
        "a        10.5",
        "longer      3  x",
    ]
    assert tables.markdown(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n"


def test_values_are_written_alike_everywhere():
    values = (None, 0.123456789, 3, True, "x", "ab" * 32, {"a": 0.5, "b": None})
    words = ["-", "0.12346", "3", "True", "x", "abababababab", "a 0.5, b -"]
    assert [tables.text(value) for value in values] == words
    assert tables.interval([0.25, 1.0]) == "[0.2500, 1.0000]"
    assert tables.interval([-0.25, 0.1], "+") == "[-0.2500, +0.1000]"
    assert tables.interval(None) == ""
