"""Tables as people keep them: encodings, separators, headers, indices, labels, missing values."""

import bz2
import contextlib
import gzip
import shlex

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import csv, parquet

from jaxae import data
from jaxae.cli import main as cli
from jaxae.config import DataConfig
from jaxae.data.own import csv_files, files, tables
from jaxae.data.own.schema import Schema
from jaxae.errors import UserError

N = 60
X = np.random.default_rng(0).normal(size=(N, 4)).round(4) + 0.00001
Y = (np.arange(N) % 10 == 3).astype(int)


def lines(names, rows, separator=",", decimal="."):
    """A CSV as text."""
    cells = [
        [str(v).replace(".", decimal) if isinstance(v, float) else str(v) for v in r] for r in rows
    ]
    head = [separator.join(names)] if names else []
    return "\n".join([*head, *(separator.join(row) for row in cells)]) + "\n"


def rows_of(x=X, *more):
    return [[*row, *rest] for row, *rest in zip(x.tolist(), *more, strict=True)]


def raw_of(path, **changes):
    return data.raw(DataConfig(name=str(path), **changes))


def values_of(raw):
    """All rows, in an order that does not depend on the split."""
    x = np.concatenate([raw.x_train, raw.x_test])
    return x[np.lexsort(x.T)]


SORTED = X[np.lexsort(X.T)]
NAMES = ["a", "b", "c", "d"]


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    separator=st.sampled_from([",", ";", "\t", "|", " ", "   "]),
    decimal=st.sampled_from([".", ","]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    top=st.sampled_from(["", "# written by a logger\n", "\n\n", "sep"]),
    names=st.sampled_from([NAMES, ["größe", " b ", "°C", "2019"], ["nan", "Inf", "1_1", "x"]]),
)
def test_every_form_of_a_csv_has_the_same_rows(
    separator, decimal, encoding, end, top, names, tmp_path
):
    if separator == "," and decimal == ",":
        decimal = "."
    names = [name.strip() for name in names] if separator.isspace() else names
    top = f"sep={separator}\n" if top == "sep" and len(separator) == 1 else top.replace("sep", "")
    text = top + lines([*names, "label"], rows_of(X, Y.tolist()), separator, decimal)
    path = tmp_path / "t.csv"
    path.write_bytes(text.replace("\n", end).encode(encoding))
    raw = raw_of(path)
    np.testing.assert_array_equal(values_of(raw), SORTED)
    assert raw.schema.columns == tuple(name.strip() for name in names)
    assert sorted(np.concatenate([raw.train_class_id, raw.test_class_id])) == sorted(Y)


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress)])
def test_compressed_files_are_read(suffix, pack, tmp_path):
    path = tmp_path / f"t.csv{suffix}"
    path.write_bytes(pack(lines([*NAMES, "label"], rows_of(X, Y.tolist())).encode()))
    np.testing.assert_array_equal(values_of(raw_of(path)), SORTED)


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_folder_of_parts_is_one_table(kind, tmp_path):
    table = pa.table(dict(zip([*NAMES, "label"], [*X.T, Y], strict=True)))
    for i, part in enumerate((table.slice(0, 25), table.slice(25))):
        write = parquet.write_table if kind == "parquet" else csv.write_csv
        (tmp_path / "parts").mkdir(exist_ok=True)
        write(part, tmp_path / f"parts/part-{i}.{kind}")
    (tmp_path / "parts/_SUCCESS").touch()
    np.testing.assert_array_equal(values_of(raw_of(tmp_path / "parts")), SORTED)


@pytest.mark.parametrize(
    "names",
    [["0", "1", "2", "3", "4"], ["1", "2", "3", "4", "5"], ["400", "401.5", "403", "404.5", "406"],
     ["2019", "2020", "2021", "2022", "label"], ["900.1", "910.4", "931.7", "944.2", "950"]],
)  # fmt: skip
def test_numbers_that_are_names_are_no_row(names, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(lines(names, rows_of(X, Y.tolist())))
    label = {} if "label" in names else {"label": names[-1]}
    raw = raw_of(path, **label)
    assert raw.schema.columns == tuple(names[:4])
    np.testing.assert_array_equal(values_of(raw), SORTED)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.booleans())
def test_a_first_row_of_data_is_never_taken_for_names(seed, width, is_whole):
    generator = np.random.default_rng(seed)
    x = generator.integers(0, 99, (80, width)) if is_whole else generator.normal(size=(80, width))
    first, *rest = [[str(value) for value in row] for row in x.tolist()]
    with contextlib.suppress(UserError):  # it is asked
        assert not csv_files._is_header(first, rest)


def test_new_files_are_read_with_the_header_of_training(tmp_path):
    (tmp_path / "t.csv").write_text(lines([], rows_of(np.round(X * 100).astype(int))))
    schema = raw_of(tmp_path / "t.csv").schema
    for first in (["5", "9", "2", "4"], ["0", "1", "1", "0"]):
        (tmp_path / "new.csv").write_text(lines([], [first, ["3", "4", "5", "7"]]))
        np.testing.assert_array_equal(
            files.rows(tmp_path / "new.csv", schema).x[0], list(map(int, first))
        )
    (tmp_path / "new.csv").write_text(lines(["0", "1", "2", "3"], rows_of(X)))
    with pytest.raises(UserError, match="lacks the columns column0"):
        files.rows(tmp_path / "new.csv", schema)
    (tmp_path / "t.csv").write_text(
        lines(["0", "1"], rows_of(np.round(X[:, :2] * 100).astype(int)))
    )
    schema = raw_of(tmp_path / "t.csv", header="yes").schema
    (tmp_path / "new.csv").write_text("1,0\n5,6\n")
    np.testing.assert_array_equal(files.rows(tmp_path / "new.csv", schema).x, [[6, 5]])


def test_where_it_is_open_the_header_is_asked_for(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(lines(["0", "1"], rows_of(np.round(X[:, :2] * 100).astype(int))))
    with pytest.raises(UserError, match=r"add either --data.header yes or --data.header no"):
        raw_of(path)
    assert len(raw_of(path, header="yes").x_train) == N
    assert len(raw_of(path, header="no").x_train) == N + 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Report of pump 3,,,\na,b,c,label\n1.5,2,3,0\n1,2,3.5,1\n", "names 1 col.*remove titles"),
        ("a,b,label\n1,471,0,713,0\n0,143,0,586,1\n", "names 3 columns, but the rows below have 5"),
        ("a,b\n1,2\n3\n", "not a readable table"),
        ("a,b\n", "no rows"),
        ("\n\n", "empty"),
        ("a,b\n1,2\n\0,3\n", "NUL"),
    ],
)  # fmt: skip
def test_files_that_are_no_table_are_refused(text, says, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=says) as caught:
        raw_of(tmp_path / "t.csv")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("separator", [",", ";", "\t", " "])
@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize("begin", ["row number", "name", "nothing"])
def test_names_of_rows_may_have_no_name(begin, quote, separator, tmp_path):
    """R writes rows with their names, and other programs end them with a separator."""
    x = X if begin == "nothing" else [[f"car{i + 1}"[3 * (begin != "name") :], *row] for i, row in
                                      enumerate(X.tolist())]  # fmt: skip
    table = [[f"{quote}{cell}{quote}" if isinstance(cell, str) else cell for cell in row]
             for row in x]  # fmt: skip
    text = lines([f"{quote}{name}{quote}" for name in NAMES], table, separator)
    if begin == "nothing":
        first, *rows = text.splitlines()
        text = "\n".join([first, *(row + separator for row in rows)])
    (tmp_path / "t.txt").write_text(text)
    raw = raw_of(tmp_path / "t.txt", ignore=("column0",) * (begin == "name"))
    assert raw.schema.columns == tuple(NAMES)
    np.testing.assert_array_equal(values_of(raw), SORTED)


def test_names_in_a_comment_above_values_between_blanks(tmp_path):
    np.savetxt(tmp_path / "t.txt", np.c_[X, Y], header=" ".join([*NAMES, "label"]))
    raw = raw_of(tmp_path / "t.txt")
    assert raw.schema.columns == tuple(NAMES)
    np.testing.assert_array_equal(values_of(raw), SORTED)


@pytest.mark.parametrize("last", [[1.5, 2.5, 3.5, 4.5], [1.5, "", "", ""]])
@pytest.mark.parametrize("end", ["", ";;;\n;;;\n", ";;;\n\n;;;"])
def test_lines_without_values_at_the_end_do_not_count(end, last, tmp_path):
    (tmp_path / "t.csv").write_text(lines(NAMES, [*X.tolist(), last], ";") + end)
    table, notes = tables.read(tmp_path / "t.csv")
    assert table.num_rows == N + 1
    assert table["a"][-1].as_py() == 1.5
    assert table["d"].null_count == (last[-1] == "")
    assert any("2 lines without any value" in note for note in notes) == bool(end)


def test_numbers_stored_as_texts_are_named(tmp_path):
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"a": X[:, 1], "b": X[:, 2].astype(str)}), path)
    with pytest.raises(UserError, match=r"'b' holds numbers as texts.* store it as numbers"):
        raw_of(path)


def test_texts_that_training_lacked_are_said(tmp_path):
    schema = Schema("table", columns=("a", "mode"), categories=((), ("on", "off")))
    text = "a,mode\n1.5,on\n2.5,idle\n3.5, off\n4.5,On\n"
    (tmp_path / "t.csv").write_text(text)
    assert "'mode' has values in 2 rows that no training row had, first 'idle'" in " ".join(
        files.rows(tmp_path / "t.csv", schema).notes
    )
    (tmp_path / "t.csv").write_text(text.replace("idle", "on").replace("On", "off"))
    assert not files.rows(tmp_path / "t.csv", schema).notes


def test_what_cannot_be_judged_is_named_with_its_row_and_what_helps(tmp_path):
    schema = Schema("table", columns=("a",), categories=((),))
    for cell, says in (("bad", "'bad' in row 2, not a number"), ("", "remove the rows; training")):
        (tmp_path / "t.csv").write_text(f"a,b\n1.5,1\n2.5,1\n{cell},1\n")
        with pytest.raises(UserError, match=says):
            files.rows(tmp_path / "t.csv", schema)


@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize(
    ("row", "says"),
    [
        ((30, ["a", "b", "c", "d", "label"]), "row 30 repeats the names"),
        ((0, ["bar", "°C", "rpm", "A", "-"]), "'bar' in row 0; if that row holds units"),
        ((7, ["1.5", "12%", "1", "1", "0"]), "'12%' in row 7; .* without percent signs"),
        ((7, ["1.5", "1,234.5", "1", "1", "0"]), "'1,234.5' in row 7; .* separators of thousands"),
        ((7, ["oops", "1", "1", "1", "0"]), "'oops' in row 7; correct the value"),
    ],
)
def test_texts_among_numbers_are_named_with_their_row(row, says, one_hot, tmp_path):
    at, cells = row
    table = rows_of(X, Y.tolist())
    cells = [f'"{cell}"' for cell in cells]
    (tmp_path / "t.csv").write_text(lines([*NAMES, "label"], [*table[:at], cells, *table[at:]]))
    with pytest.raises(UserError, match=says):
        raw_of(tmp_path / "t.csv", one_hot=one_hot)


@pytest.mark.parametrize(
    "mark", ["?", "NA", "n/a", "-", "null", "nan", "", " NA ", "None", ".", "--"]
)
def test_marks_of_missing_values_are_reported_and_filled_or_dropped(mark, tmp_path):
    table = rows_of(X, Y.tolist())
    table[5][1] = table[9][1] = mark
    path = tmp_path / "t.csv"
    path.write_text(lines([*NAMES, "label"], table))
    with pytest.raises(UserError, match=r"columns b \(2 rows, first 5\).*--data.missing median"):
        raw_of(path)
    filled, dropped = raw_of(path, missing="median"), raw_of(path, missing="drop")
    trained = {row[0] for row in filled.x_train.tolist()}
    others = [X[i, 1] for i in range(N) if X[i, 0] in trained and i not in (5, 9)]
    assert filled.schema.fill[1] == np.median(others)
    assert np.sum(values_of(filled)[:, 1] == np.median(others)) >= 2
    assert "2 missing values are filled" in filled.notes[-1]
    assert len(values_of(dropped)) == N - 2
    assert "2 rows with missing values are left out" in dropped.notes
    (tmp_path / "new.csv").write_text(lines(NAMES, [[1.0, mark, 2.0, 3.0], [1.5, 2.5, 3.5, 4.5]]))
    found = files.rows(tmp_path / "new.csv", filled.schema)
    judged = found.x
    assert found.notes == ("1 missing values are filled with medians of the training rows",)
    np.testing.assert_array_equal(judged[0], [1, np.median(others), 2, 3])
    for schema in (dropped.schema, Schema("table", columns=("b",), categories=((),))):
        with pytest.raises(UserError, match=r"b \(1 rows, first 0\)"):
            files.rows(tmp_path / "new.csv", schema)


def test_a_missing_value_in_a_single_column_is_a_row(tmp_path):
    for gap in ("", '""', "NA"):
        (tmp_path / "t.csv").write_text(f"v\n1.5\n2.5\n{gap}\n90\n4\n")
        with pytest.raises(UserError, match=r"v \(1 rows, first 2\)"):
            raw_of(tmp_path / "t.csv")


def test_empty_columns_and_indices_are_left_out_and_other_nameless_ones_are_not(tmp_path):
    path, count = tmp_path / "t.csv", range(N)
    table = [[i, *row, "", y] for i, row, y in zip(count, X.tolist(), Y, strict=True)]
    for name in ("", "Unnamed: 0"):
        path.write_text(lines([name, *NAMES, "Unnamed: 32", "label"], table))
        raw = raw_of(path)
        assert raw.schema.columns == tuple(NAMES)
        assert any("index" in note for note in raw.notes)
        assert any("empty columns are left out: 'Unnamed: 32'" in note for note in raw.notes)
    path.write_text(lines([*NAMES, "label", "", ""], [[*row, "", ""] for row in rows_of(X, Y)]))
    assert raw_of(path).schema.columns == tuple(NAMES)
    path.write_text(lines(["a", "", "c", "d", "label"], rows_of(X, Y)))
    raw = raw_of(path)
    assert raw.schema.columns == ("a", "column1", "c", "d")
    assert "a column without a name is called column1" in raw.notes
    index = pa.table(dict(zip([*NAMES, "label"], [*X.T, Y], strict=True)))
    index = index.append_column(
        "__index_level_0__", pa.array(np.random.default_rng(0).permutation(N))
    )
    parquet.write_table(index, tmp_path / "t.parquet")
    assert raw_of(tmp_path / "t.parquet").schema.columns == tuple(NAMES)


def test_codes_are_compared_as_texts_with_those_of_training(tmp_path):
    code = np.array(["1", "2", "01", "A1"])[np.arange(N) % 4]
    (tmp_path / "t.csv").write_text(lines(["a", "code", "label"], rows_of(X[:, :1], code, Y)))
    schema = raw_of(tmp_path / "t.csv", one_hot=True).schema
    assert schema.features == ["a", "code=01", "code=1", "code=2", "code=A1"]
    (tmp_path / "new.csv").write_text("a,code\n0.5,1\n0.5,01\n0.5,7\n")
    parquet.write_table(pa.table({"a": [0.5] * 3, "code": [1, 2, 7]}), tmp_path / "new.parquet")
    found = files.rows(tmp_path / "new.csv", schema).x[:, 1:]
    np.testing.assert_array_equal(found, [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    found = files.rows(tmp_path / "new.parquet", schema).x[:, 1:]
    np.testing.assert_array_equal(found, [[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])


LABEL = np.where(Y == 1, "attack", "normal")


@pytest.mark.parametrize(
    ("columns", "label", "left_out"),
    [
        ({"label": LABEL, "is_anomaly": Y}, "label", ["is_anomaly"]),
        ({"anomaly": Y, "changepoint": np.roll(Y, 3)}, "anomaly", ["changepoint"]),
        ({"target": np.arange(N) % 2, "anomaly": Y}, "anomaly", []),
        ({"x": X[:, 0], "y": np.arange(N) % 3, "z": X[:, 1], "fault": Y}, "fault", []),
        ({"y": Y}, "y", []),
        ({"target": X[:, 0], "y": Y}, "y", []),
        ({"Machine failure": Y, "mode": 1 - Y}, "Machine failure", ["mode"]),
        ({"class": LABEL, "y": np.arange(N) % 7}, "class", []),
        ({"anomaly": X[:, 0], "is_attack": Y}, "is_attack", []),
        ({"x": X[:, 0], "y": np.arange(N) % 2, "z": X[:, 1]}, "", []),
    ],
)
def test_the_better_name_is_the_label_and_what_repeats_it_is_left_out(
    columns, label, left_out, tmp_path
):
    parquet.write_table(pa.table({"a": X[:, 2], "b": X[:, 3], **columns}), tmp_path / "t.parquet")
    found = tables.roles(pa.table({"a": X[:, 2], "b": X[:, 3], **columns}), DataConfig())
    assert found.label == label
    assert list(found.left_out) == left_out
    raw = raw_of(tmp_path / "t.parquet")
    assert raw.is_labelled == bool(label)
    assert not {label, *left_out} & {*raw.schema.columns}
    said = " ".join(raw.notes)
    assert all(repr(name) in said or name in said for name in [label, *left_out])


@pytest.mark.parametrize(
    "columns",
    [{"state of pump": np.where(Y == 1, "BROKEN", "NORMAL")}, {"sensor fault": Y}],
)
def test_what_may_be_a_label_is_asked_for_with_commands_that_work(columns, tmp_path):
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"a": X[:, 2], **columns}), path)
    with pytest.raises(UserError, match="looks like a label") as caught:
        raw_of(path, one_hot=True)
    said = shlex.split(str(caught.value).partition("; ")[2])
    name = said[said.index("--data.label") + 1]
    assert name == next(iter(columns))
    assert raw_of(path, label=name).is_labelled
    assert raw_of(path, label="none", one_hot=True).schema.columns == ("a", name)
    assert raw_of(path, ignore=(name,)).schema.columns == ("a",)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("column7", np.where(Y == 1, np.where(X[:, 0] > 0, "neptune", "smurf"), "normal")),
        ("Healthy", np.where(Y == 1, "N", "Y")),
        ("passed", 1 - Y),
    ],
)
def test_a_column_that_speaks_of_normals_is_no_feature_unless_asked_for(name, values, tmp_path):
    parquet.write_table(pa.table({"a": X[:, 2], name: values}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=f"{name}' looks like a label"):
        raw_of(tmp_path / "t.parquet", one_hot=True)


def test_features_that_may_be_labels_or_identifiers_are_named(tmp_path):
    number = np.random.default_rng(0).permutation(N) + 7
    columns = {"a": X[:, 2], "Störung": Y, "Unit ID": number, "valid": number / 2}
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    raw = raw_of(tmp_path / "t.parquet")
    assert raw.schema.columns == tuple(columns)
    said = [note for note in raw.notes if "--data.label" in note or "--data.ignore" in note]
    assert [name for name in columns if any(repr(name) in note for note in said)] == [
        "Störung",
        "Unit ID",
    ]
    assert raw_of(tmp_path / "t.parquet", label="Störung").is_labelled


@pytest.mark.parametrize("position", [0, 4])
def test_a_label_without_a_name_beside_a_series_is_asked_for(position, tmp_path):
    table = [
        [*row[:position], y + 1, *row[position:]] for row, y in zip(X.tolist(), Y, strict=True)
    ]
    (tmp_path / "t.tsv").write_text(lines([], table, "\t"))
    with pytest.raises(
        UserError, match=f"--data.label column{position} if .* else --data.label none"
    ):
        raw_of(tmp_path / "t.tsv")
    with pytest.raises(UserError, match=r"either --data.normal 1 or --data.normal 2"):
        raw_of(tmp_path / "t.tsv", label=f"column{position}")
    raw = raw_of(tmp_path / "t.tsv", label=f"column{position}", normal=(1,))
    np.testing.assert_array_equal(values_of(raw), SORTED)


def test_a_label_of_normals_is_not_inverted(tmp_path):
    parquet.write_table(pa.table({"a": X[:, 2], "is_normal": 1 - Y}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"add --data.normal 1"):
        raw_of(tmp_path / "t.parquet")
    assert set(raw_of(tmp_path / "t.parquet", normal=(1,)).train_class_id) == {1}


def test_columns_of_any_arrow_type_have_a_role_or_are_refused(tmp_path):
    texts = pa.chunked_array([pa.array(["a", "b"] * 15).dictionary_encode()] * 2)
    label = pa.chunked_array([pa.array(["ok", "bad"] * 15).dictionary_encode()] * 2)
    others = {"l": pa.array([[1]] * N), "s": pa.array([{"v": 1}] * N), "b": pa.array([b"a"] * N)}
    for name, column in {"d": texts, **others}.items():
        parquet.write_table(
            pa.table({"a": X[:, 2], name: column, "label": label}), tmp_path / "t.pq"
        )
        found = tables.roles(pa.table({"a": X[:, 2], name: column, "label": label}), DataConfig())
        assert found.label == "label"
        assert found.left_out == (("d",) if name == "d" else ())
        if name != "d":
            with pytest.raises(UserError, match=f"--data.ignore {name}"):
                raw_of(tmp_path / "t.pq")


def test_a_label_that_calls_all_rows_anomalies_is_refused(tmp_path):
    parquet.write_table(pa.table({"a": X[:, 2], "is_fraud": 1 + 0 * Y}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match="none is normal"):
        raw_of(tmp_path / "t.parquet")
    parquet.write_table(pa.table({"a": X[:, 2], "is_fraud": 0 * Y}), tmp_path / "t.parquet")
    assert not raw_of(tmp_path / "t.parquet").is_labelled


@pytest.mark.parametrize("name", ["Product ID", "it's", "a;b", "$x", "--y"])
def test_hints_can_be_pasted(name, tmp_path):
    path = tmp_path / "t.parquet"
    parquet.write_table(
        pa.table({"a": X[:, 2], name: [f"M{i}" for i in range(N)], "label": Y}), path
    )
    with pytest.raises(UserError, match=r"--data.ignore") as caught:
        raw_of(path)
    words = shlex.split(str(caught.value).partition("out with ")[2].partition(", give")[0])
    assert words == ["--data.ignore", name]
    assert raw_of(path, ignore=(words[1],)).schema.columns == ("a",)


def test_arff_and_ts_files_are_tables(tmp_path):
    attributes = "\n".join(f"@attribute {name} numeric" for name in NAMES)
    body = lines([], rows_of(X, LABEL))
    (tmp_path / "t.arff").write_text(
        f"@relation pumps\n{attributes}\n@attribute class {{normal,attack}}\n@data\n{body}"
    )
    series = "\n".join(
        f"{','.join(map(str, row))}:{k}" for row, k in zip(X.tolist(), LABEL, strict=True)
    )
    head = "@problemName p\n@timeStamps false\n@univariate true\n@classLabel true normal attack\n"
    (tmp_path / "t.ts").write_text(f"#\n{head}@data\n{series}\n")
    for name in ("t.arff", "t.ts"):
        raw = raw_of(tmp_path / name)
        np.testing.assert_array_equal(values_of(raw), SORTED)
        assert raw.normal == (0,)
    for text, says in [
        ("@data\n1,2:3,4:a\n", "several channels"),
        ("@classLabel true a\n@data\n1,2:a\n3:a\n", "length"),
        ("@timeStamps true\n@data\n(1,2)\n", "timestamps"),
        ("", "no rows"),
        ("@data\n1,x\n", "'x'"),
    ]:  # fmt: skip
        (tmp_path / "t.ts").write_text(text)
        with pytest.raises(UserError, match=says):
            raw_of(tmp_path / "t.ts")
    (tmp_path / "t.arff").write_text("@relation r\n@attribute s string\n@data\nx\n")
    with pytest.raises(UserError, match="not a readable ARFF file"):
        raw_of(tmp_path / "t.arff")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1,2\n3,4\n", [[1, 2], [3, 4]]), ("a,b\n1,2\n", [[1, 2]]), ("\ufeff5\n6\n\n\n", [[5], [6]]),
     ("1,2", [[1, 2]]), ("x\n7\n", [[7]]), ("1;2\n3;4\n", [[1, 2], [3, 4]]), ("\n1,2\n", [[1, 2]]),
     ("1,2\n\n3,4\n", [[1, 2], [3, 4]]), ("0,1,2,3\n.5,.25,1,7\n", [[0.5, 0.25, 1, 7]]),
     (",a,b\n0,5,6\n1,7,8\n", [[5, 6], [7, 8]])],
)  # fmt: skip
def test_detectors_of_arrays_read_every_row_of_a_csv(text, expected, tmp_path):
    (tmp_path / "x.csv").write_text(text, encoding="utf-8")
    np.testing.assert_array_equal(files.rows(tmp_path / "x.csv", Schema()).x, expected)


@pytest.mark.parametrize(
    "text",
    ["1,,3\n4,5,6\n", "1,x\n2,3\n", "1,2 # 3\n", "# 1,2\n3,4\n#5,6\n", "1,2\n3,4,5\n", "\n5\n6\n",
     "5\n\n6\n", "a,b\n", "1,2\n3\n", "1,2\n3,x\n", "\ufeff"],
)  # fmt: skip
def test_no_row_of_a_csv_is_lost_in_silence(text, tmp_path):
    (tmp_path / "x.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UserError):
        files.rows(tmp_path / "x.csv", Schema())


@pytest.mark.slow
def test_wide_tables_take_time_in_proportion_to_their_width(tmp_path):
    """With look-ups by name for every column, 6,000 columns take a minute."""
    x = np.random.default_rng(0).normal(size=(30, 6000))
    names = [f"g{i}" for i in range(6000)]
    csv.write_csv(
        pa.table([*x.T, pa.array([0, 1] * 15)], names=[*names, "label"]), tmp_path / "w.csv"
    )
    raw = raw_of(tmp_path / "w.csv")
    assert raw.x_train.shape[1] == 6000
    cli.main(["data", str(tmp_path / "w.csv")])
