"""Which class is normal: by names, by numbers, or asked for with commands that work."""

import shlex

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from jaxae import data
from jaxae.cli import main as cli
from jaxae.config import DataConfig
from jaxae.config.parsing import parse
from jaxae.data.own import class_names
from jaxae.data.own.schema import Schema, numbered
from jaxae.errors import UserError

# Pairs of names as people use them, the normal one first.
PAIRS = [
    ("pass", "fail"), ("legit", "fraud"), ("in-control", "fault1"), ("BenignTraffic", "Backdoor"),
    ("No Failure", "Heat Failure"), ("good part", "bad part"), ("normal.", "back."), ("N", "A"),
    ("non-anomalous", "anomalous"), ("ok_front", "def_front"), ("uninfected", "parasitized"),
    ("working", "broken"), ("OK ", "NOK"), ("no", "yes"), ("negative", "positive"), ("ok", "NotOK"),
    ("defect-free", "scratch"), ("control", "fault_3"), ("healthy", "unhealthy"), ("none", "hole"),
    ("in spec", "out of spec"), ("nonfraud", "fraud"), ("NORMAL", "abnormal"), ("B", "M"),
]  # fmt: skip


def table(path, labels, **more):
    x = np.random.default_rng(0).normal(size=(len(labels), 3))
    parquet.write_table(pa.table({"a": x[:, 0], "b": x[:, 1], "label": labels} | more), path)
    return str(path)


def normals_of(name, **settings):
    raw = data.raw(DataConfig(name=name, **settings))
    return {raw.schema.known_as(k) for k in np.unique(raw.train_class_id).tolist()}


@pytest.mark.parametrize(("normal", "other"), PAIRS)
@pytest.mark.parametrize("change", [str, str.upper, lambda name: f" {name} "])
def test_usual_names_say_which_class_is_normal(normal, other, change):
    names = tuple(sorted((change(normal), change(other))))
    assert [names[i] for i in class_names.normals(names)] == [change(normal)]
    assert class_names.side(f"{change(normal)}") in ("normal", "")
    assert class_names.side(f"{change(other)}") in ("anomalous", "")


@pytest.mark.parametrize(
    "names", [("A", "B"), ("left", "right"), ("leak", "crack"), ("x", "y", "z")]
)
def test_other_names_are_asked_for_with_commands_that_work(names, tmp_path):
    path = table(tmp_path / "t.parquet", [*names] * 30)
    with pytest.raises(UserError, match=r"0 \(\w+\), 1 \(\w+\).*normal is not known") as caught:
        data.load(DataConfig(name=path))
    flag, name = shlex.split(str(caught.value))[str(caught.value).split().index("--data.normal") :][
        :2
    ]
    assert flag == "--data.normal"
    assert normals_of(path, normal=(name.rstrip(","),)) == {min(names)}


@given(
    names=st.lists(
        st.sampled_from(["-1", "0", "1", "2", "7", "10", "100"]), min_size=2, unique=True
    )
)
def test_numbers_as_texts_are_numbers(names):
    labels, classes = numbered(np.array(names), "labels")
    assert classes == ()
    assert labels.tolist() == [int(name) for name in names]
    assert (
        numbered(np.array([f" {name}.0" for name in names]), "labels")[0].tolist()
        == labels.tolist()
    )


@given(
    st.lists(
        st.sampled_from(["0", "1", "2", "9", "good", "x", "bad", "normal"]), unique=True, min_size=1
    )
)
def test_a_name_that_is_a_number_is_never_another_class(names):
    labels, classes = numbered(np.array([*names, "name"]), "labels")
    schema = Schema(classes=classes)
    assert sorted(classes) == sorted([*names, "name"])
    for name, number in zip([*names, "name"], labels.tolist(), strict=True):
        assert classes[number] == name
        assert schema.number(name) == number
        assert schema.number(number) == number
        if name.isdigit():
            assert schema.number(int(name)) == number


@pytest.mark.parametrize("kind", [int, float, str])
@pytest.mark.parametrize("rare", [-1, 1])
def test_of_minus_one_and_one_the_usual_class_is_normal(rare, kind, tmp_path):
    labels = [kind(rare if i % 10 == 0 else -rare) for i in range(60)]
    raw = data.raw(DataConfig(name=table(tmp_path / "t.parquet", labels)))
    assert np.unique(raw.train_class_id).tolist() == [-rare]
    assert any(f"class {-rare}, which is taken as normal" in note for note in raw.notes)
    with pytest.raises(UserError, match=r"either --data.normal -1 or --data.normal 1"):
        data.raw(DataConfig(name=table(tmp_path / "u.parquet", [kind(1), kind(-1)] * 30)))


def test_class_0_is_normal_unless_most_rows_are_of_class_1(tmp_path):
    assert normals_of(table(tmp_path / "t.parquet", [0, 0, 1] * 20)) == {"0"}
    path = table(tmp_path / "u.parquet", [0, 1, 1] * 20)
    with pytest.raises(UserError, match=r"\(67%\) are of class 1; add either"):
        data.raw(DataConfig(name=path))
    assert normals_of(path, normal=(1,)) == {"1"}
    assert normals_of(path, anomaly=("1",)) == {"0"}


def test_names_are_taken_as_they_are_and_from_the_command_line(tmp_path, capsys):
    path = table(tmp_path / "t.parquet", ["dos attack", "normal.", "r2l"] * 20)
    assert normals_of(path) == {"normal."}
    assert normals_of(path, normal=("R2L",)) == {"r2l"}
    assert normals_of(path, anomaly=("dos attack", 0)) == {"r2l"}
    assert parse(DataConfig, ["--normal", "1", "dos attack"]).normal == (1, "dos attack")
    cli.main(["data", path, "--data.anomaly", "dos attack"])
    said = capsys.readouterr().out
    assert "class 1 (dos attack): 0 + 20 rows, anomaly" in said
    with pytest.raises(
        UserError, match=r"classes probe, .* 0 \(normal\.\), 1 \(dos attack\), 2 \(r2l\)"
    ):
        data.raw(DataConfig(name=path, normal=("probe",)))
