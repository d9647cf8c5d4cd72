"""Kinds of files and names that people have, one test each, by family."""

import gzip
import io
import os
import sys
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from jaxae import data
from jaxae.cli import main as cli
from jaxae.config import DataConfig
from jaxae.data.arrayfiles import read_rows
from jaxae.data.own import files
from jaxae.errors import UserError
from jaxae.storage import disk


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nothere.csv", "'nothere.csv' does not exist; check the path"),
        ("folder/of/mine", "'folder/of/mine' does not exist"),
        ("nothing", "unknown dataset or file 'nothing'; known: .*digits"),
        ("tabel:odd.xyz", "unknown kind of files 'tabel'; known: images, npy"),
        ("odd.xyz", r"'odd.xyz' does not end as a kind of file does; name its kind: .*table:PATH"),
    ],
)
def test_a_name_that_is_no_file_is_told_from_one_that_is(name, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd.xyz").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=says):
        data.raw(DataConfig(name=name))


def write_images(folder, names):
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for name in names:
        image = Image.fromarray(generator.integers(0, 256, (8, 8), np.uint8))
        image.save(os.fsencode(folder) + b"/" + name, "PNG")


def test_names_that_a_terminal_or_utf8_cannot_show_are_escaped(tmp_path, monkeypatch):
    for kind in ("正常", os.fsdecode(b"St\xf6rung")):
        write_images(tmp_path / "own" / kind, [b"%d\xff.png" % i for i in range(8)])
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, "cp1252", write_through=True))
    cli.main(["data", str(tmp_path / "own"), "--data.normal", "1"])
    assert rb"\u6b63\u5e38" in shown.getvalue()
    disk.write_text(tmp_path / "names.txt", os.fsdecode(b"St\xf6rung, \xe6\xad\xa3"))
    assert (tmp_path / "names.txt").read_text(encoding="utf-8") == "St\\udcf6rung, 正"


def test_rows_that_are_all_equal_are_said_to_be(tmp_path, capsys):
    y = np.arange(60) >= 50
    lines = [f"{3 * flag},1,{int(flag)}" for flag in y]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,label", *lines]))
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "--data.name", str(tmp_path / "t.csv"), "--run-dir", f"{tmp_path}/run"])
    assert stop.value.code == 2
    assert "training rows are equal" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


class Reads(NamedTuple):
    """What a table is read as."""

    features: str  # names, separated by blanks
    anomalies: int | None = 9  # None = there are no labels
    rows: int = 60


N = 60
A = np.random.default_rng(0).permutation(N) / N + 0.5
B = np.arange(N) % 7
FAILS = np.arange(N) % 7 == 3  # 9 of them


def text(*header, cells="{a} {b} {y:d}", between=","):
    """Lines of a table: `cells` are formats of a row's values, separated by blanks."""
    rows = zip(A, B, FAILS, range(N), strict=True)
    filled = (cells.format(a=a, b=b, y=y, i=i).split(" ") for a, b, y, i in rows)
    return "".join(f"{between.join(row)}\n" for row in [*([header] if header else []), *filled])


def named(normal, anomaly):
    """A table with these names of classes."""
    names = np.where(FAILS, anomaly, normal)
    return "a,b,label\n" + "".join(f"{a},{b},{k}\n" for a, b, k in zip(A, B, names, strict=True))


BOTH = r"--data.normal {0}\b.*--data.normal {1}\b|--data.normal {1}\b.*--data.normal {0}\b"
# What is in the file, what the user says of it, and what it is read as, or refused with.
TABLES = {
    "integers for names": (text("0", "1", "label"), {}, Reads("0 1")),
    "integers for names, no label": (text("0", "1", cells="{a} {b}"), {}, Reads("0 1", None)),
    "wavelengths": (text("400.5", "401.5", "label"), {}, Reads("400.5 401.5")),
    "names among numbers": (text("nan", "2019", "label"), {}, Reads("nan 2019")),
    "names with underscores": (text("1_1", "Inf", "label"), {}, Reads("1_1 Inf")),
    "names with commas": (text('"load, 100"', "b", "label"), {}, Reads("load,_100 b")),
    "no names": (text(), {"label": "column2"}, Reads("column0 column1")),
    "names again": (text("a", "b", "label") * 2, {}, "a"),
    "names again, one-hot": (text("a", "b", "label") * 2, {"one_hot": True}, "a"),
    "units below the names": (text("a", "b", "label").replace("\n", "\nmm,kg,-\n", 1), {}, "'a'"),
    "an index without a name": (
        text("", "a", "b", "label", cells="{i} {a} {b} {y:d}"),
        {},
        Reads("a b"),
    ),
    "blanks around names": (text(" a", " b", " label"), {}, Reads("a b")),
    "one name twice": (text("a", "a", "label"), {}, "several columns called a"),
    "semicolons": (text("a", "b", "label", between=";"), {}, Reads("a b")),
    "tabs": (text("a", "b", "label", between="\t"), {}, Reads("a b")),
    "pipes": (text("a", "b", "label", between="|"), {}, Reads("a b")),
    "decimal commas": (text("a", "b", "label", between=";").replace(".", ","), {}, Reads("a b")),
    "a comment first": ("# made on Monday\n" + text("a", "b", "label"), {}, Reads("a b")),
    "sep= first": ("sep=;\n" + text("a", "b", "label", between=";"), {}, Reads("a b")),
    "a byte order mark": ("\ufeff" + text("a", "b", "label"), {}, Reads("a b")),
    "CRLF": (text("a", "b", "label").replace("\n", "\r\n"), {}, Reads("a b")),
    "blank lines": (text("a", "b", "label").replace("\n", "\n\n"), {}, Reads("a b")),
    "a ragged line": (text("a", "b", "label") + "1,2\n", {}, "line|columns"),
    "quoted numbers": (text("a", "b", "label", cells='"{a}" "{b}" {y:d}'), {}, Reads("a b")),
    "padded numbers": (
        text("a", "b", "label", cells="_{a} _{b}_ {y:d}").replace("_", " "),
        {},
        Reads("a b"),
    ),
    "signs and exponents": (text("a", "b", "label", cells="+{a:.17E} {b} {y:d}"), {}, Reads("a b")),
    "per cent": (text("a", "b", "label", cells="{a} {b}% {y:d}"), {}, "'b' holds text"),
    "hexadecimal": (text("a", "b", "label", cells="{a} 0x1F {y:d}"), {}, Reads("a b")),
    "a column without a value": (
        text("a", "b", "c", "label", cells="{a} {b}  {y:d}"),
        {},
        Reads("a b"),
    ),
    "a question mark": (
        text("a", "b", "label").replace(",5,", ",?,", 1),
        {"one_hot": True},
        r"b \(1 row",
    ),
    "NA": (text("a", "b", "label").replace(",5,", ",NA,", 1), {}, r"b \(1 row"),
    "infinity": (text("a", "b", "label").replace(",5,", ",Infinity,", 1), {}, r"b \(1 row"),
    "x, y and z": (
        text("x", "y", "z", "fault", cells="{a} {b} {i} {y:d}"),
        {"label": "fault"},
        Reads("x y z"),
    ),
    "a second label": (
        text("a", "b", "label", "is_anomaly", cells="{a} {b} {y:d} {y:d}"),
        {},
        Reads("a b"),
    ),
    "a set point": (text("a", "target", "anomaly", cells="{a} 0 {y:d}"), {}, Reads("a target")),
    "labels of -1 and 1": (named("-1", "1"), {}, Reads("a b")),
    "labels of 1 and -1": (named("1", "-1"), {}, Reads("a b")),
    "labels of 1 and 2": (named("1", "2"), {}, BOTH.format(1, 2)),
    "labels of 1 and 2, said": (named("2", "1"), {"normal": ("2",)}, Reads("a b")),
    "labels False and True": (named("False", "True"), {}, Reads("a b")),
    "pass and fail": (named("pass", "fail"), {}, Reads("a b")),
    "a known bad one": (named("zebra", "broken"), {}, Reads("a b")),
    "a known good one": (named("normal.", "back."), {}, Reads("a b")),
    "two unknown names": (named("zebra", "ant"), {}, BOTH.format("zebra", "ant")),
    "two unknown names, said": (named("zebra", "ant"), {"anomaly": ("ant",)}, Reads("a b")),
    "probabilities for labels": (named("0.25", "0.75"), {}, "label"),
    "huge labels": (named("0", "10000000000"), {}, r"^(?!.*not whole)"),
    "a name with a blank": (
        text("a", "Product ID", "label", cells="{a} M{b} {y:d}"),
        {},
        "--data.ignore 'Product ID'",
    ),
    "a date": (
        text("a", "b", "label", cells="{a} 2020-01-0{b} {y:d}").replace("-00", "-09"),
        {},
        "'?b'?",
    ),
    "one column": (text("a", cells="{a}"), {}, Reads("a", None)),
    "one column, a value missing": (
        text("a", cells="{a}").replace("\n", "\n\n", 3),
        {},
        "a .*first",
    ),
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_kind_of_table(kind, tmp_path):
    content, said, expected = TABLES[kind]
    path = tmp_path / "t.csv"
    path.write_text(content, encoding="utf-8", newline="")
    check(path, said, expected)


def check(path, said, expected):
    """Read a table; it holds `expected`, or is refused with words that match it."""
    cfg = DataConfig(name=str(path), **said)
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected) as caught:
            data.load(cfg)
        assert "\n" not in str(caught.value)
        assert path.name in str(caught.value) or "data." in str(caught.value)
        return
    raw = data.raw(cfg)
    assert [name.replace(" ", "_") for name in raw.schema.features] == expected.features.split()
    assert len(raw.x_train) + len(raw.x_test) == expected.rows
    made = data.load(cfg)
    assert made.is_labelled == (expected.anomalies is not None)
    if made.is_labelled:
        assert int(made.test.y.sum()) == expected.anomalies
    again = files.rows(path, raw.schema)[0]  # as `jaxae score` reads it
    np.testing.assert_allclose(again[:, 0], A, rtol=1e-6)


def test_a_column_that_numbers_the_rows_is_named(tmp_path):
    (tmp_path / "t.csv").write_text(text("part no", "a", "b", "label", cells="{i} {a} {b} {y:d}"))
    notes = data.raw(DataConfig(name=str(tmp_path / "t.csv"))).notes
    assert sum("--data.ignore 'part no'" in note for note in notes) == 1
    assert not any("'a'" in note or "'b'" in note for note in notes)


def test_a_table_may_be_compressed(tmp_path):
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(text("a", "b", "label").encode()))
    check(tmp_path / "t.csv.gz", {}, Reads("a b"))


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_text_in_another_encoding_is_read_or_refused(encoding, tmp_path):
    content = "\n".join([*text("a", "b", "label").splitlines(), *["0,0,0"] * 3000, "0,0,Störung"])
    (tmp_path / "t.csv").write_bytes(content.encode(encoding))
    check(tmp_path / "t.csv", {}, "UTF-8|utf-8|encod|Störung")


def test_whole_numbers_may_become_fractions_late_and_values_appear_late(tmp_path):
    lines = ["a,b,label", *["1,,0"] * 55_000, *["2.5,1,0", "2.5,1,1"] * 4]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    check(tmp_path / "t.csv", {}, r"b \(55,?000 rows")
    raw = data.raw(DataConfig(name=str(tmp_path / "t.csv"), ignore=("b",)))
    assert np.unique(np.concatenate([raw.x_train, raw.x_test])).tolist() == [1, 2.5]


ROWS = [(i / 64, i / 32, i % 3 / 4, 1 + (i % 6 == 5)) for i in range(36)]
ARFF = "@relation X\n" + "".join(f"@attribute att{i} numeric\n" for i in range(3))
ARFF += "@attribute target {1,2}\n@data\n" + "".join(f"{a},{b},{c},{y}\n" for a, b, c, y in ROWS)
TS = "@problemName X\n@univariate true\n@classLabel true 1 2\n@data\n"
TS += "".join(f"{a},{b},{c}:{y}\n" for a, b, c, y in ROWS)


@pytest.mark.parametrize(
    ("name", "content", "label"),
    [
        ("X.txt", "".join(f"  {y:.7e}  {a:e}   {b:e}  {c:e}\n" for a, b, c, y in ROWS), "column0"),
        ("X.tsv", "".join(f"{y}\t{a}\t{b}\t{c}\n" for a, b, c, y in ROWS), "column0"),
        ("X.ts", TS, "auto"),
        ("X.arff", ARFF, "auto"),
    ],
)
def test_files_of_the_ucr_archive(name, content, label, tmp_path):
    (tmp_path / name).write_text(content)
    raw = data.raw(DataConfig(name=str(tmp_path / name), label=label, normal=("1",)))
    x = np.concatenate([raw.x_train, raw.x_test]).reshape(36, 3)
    np.testing.assert_allclose(x[np.argsort(x[:, 0])], [row[:3] for row in ROWS])
    made = data.load(DataConfig(name=str(tmp_path / name), label=label, normal=("1",)))
    assert made.test.y.sum() == 6


PARQUET = {
    "numbers for texts": ({"label": [str(int(y)) for y in FAILS]}, {}, Reads("a b")),
    "texts of -1 and 1": ({"label": np.where(FAILS, "1", "-1").tolist()}, {}, Reads("a b")),
    "texts of 1 and -1": ({"label": np.where(FAILS, "-1", "1").tolist()}, {}, Reads("a b")),
    "texts of 1 and 2": (
        {"label": np.where(FAILS, "1", "2").tolist()},
        {"normal": ("2",)},
        Reads("a b"),
    ),
    "texts of 1 and 10": (
        {"label": np.where(FAILS, "10", "1").tolist()},
        {"normal": ("1",)},
        Reads("a b"),
    ),
    "an index": ({"label": FAILS, "__index_level_0__": np.arange(N)}, {}, Reads("a b")),
    "flags": ({"label": FAILS}, {}, Reads("a b")),
    "a dictionary of texts": (
        {"label": pa.array(np.where(FAILS, "bad", "ok").tolist()).dictionary_encode()},
        {},
        Reads("a b"),
    ),
    "views of texts": (
        {"label": FAILS, "b": pa.array(["x", "y"] * 30, pa.string_view())},
        {"one_hot": True},
        Reads("a b=x b=y"),
    ),
    "half floats": ({"label": FAILS, "b": B.astype(np.float16)}, {}, Reads("a b")),
    "decimals": ({"label": FAILS, "b": pa.array(B).cast(pa.decimal128(21, 2))}, {}, Reads("a b")),
    "large whole numbers": ({"label": FAILS, "b": B.astype(np.uint64)}, {}, Reads("a b")),
    "nothing in some rows": ({"label": FAILS, "b": [None, *B[1:].tolist()]}, {}, r"b \(1 row"),
    "lists": ({"label": FAILS, "b": [[1.0, 2.0]] * N}, {}, "'b' holds list"),
    "structs": ({"label": FAILS, "b": [{"c": 1}] * N}, {}, "'b' holds struct"),
    "binary": ({"label": FAILS, "b": [b"x"] * N}, {}, "'b' holds binary"),
    "durations": ({"label": FAILS, "b": B.astype("timedelta64[s]")}, {}, "'b' holds duration"),
}


@pytest.mark.parametrize("kind", PARQUET)
def test_a_kind_of_parquet(kind, tmp_path):
    columns, said, expected = PARQUET[kind]
    parquet.write_table(pa.table({"a": A, "b": B} | columns), tmp_path / "t.parquet")
    check(tmp_path / "t.parquet", said, expected)


def test_codes_that_are_numbers_in_a_new_file_are_the_same_codes(tmp_path):
    lines = ["a,code,label", *(f"{a},{['1', '2', 'A1'][i % 3]},0" for i, a in enumerate(A))]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    schema = data.raw(DataConfig(name=str(tmp_path / "t.csv"), one_hot=True)).schema
    (tmp_path / "new.csv").write_text("a,code\n1,2\n2,1\n")
    x = files.rows(tmp_path / "new.csv", schema)[0]
    codes = [name.partition("=")[2] for name in schema.features[1:]]
    assert [codes[i] for i in x[:, 1:].argmax(axis=1)] == ["2", "1"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a\n0.5\n0.25\n", None),
        ("b,a\n1,0.5\n2,0.25\n", None),
        ("A\n1\n2\n", "lacks the columns a"),
        ("a\n1\n\n2\n", "a .*first"),
        ("a\n", "no rows"),
        ("a\nfast\n", "'a' holds 'fast' in row 0"),
    ],
)
def test_a_new_file_is_read_by_names_or_refused(content, says, tmp_path):
    (tmp_path / "t.csv").write_text(text("a", cells="{a}"))
    schema = data.raw(DataConfig(name=str(tmp_path / "t.csv"))).schema
    (tmp_path / "new.csv").write_text(content)
    if says is None:
        np.testing.assert_array_equal(files.rows(tmp_path / "new.csv", schema)[0], [[0.5], [0.25]])
    else:
        with pytest.raises(UserError, match=says):
            files.rows(tmp_path / "new.csv", schema)


def test_names_that_are_integers_are_no_row_of_arrays_either(tmp_path):
    (tmp_path / "new.csv").write_text("0,1\n0.5,2\n0.25,3\n")
    try:
        rows = read_rows(tmp_path / "new.csv")
    except UserError as error:
        assert "0, 1" in str(error) or "names" in str(error)  # noqa: PT017
    else:
        np.testing.assert_array_equal(rows, [[0.5, 2], [0.25, 3]])


MODES = ["1", "L", "RGB", "RGBA", "LA", "P", "I;16", "CMYK", "F"]


@pytest.mark.parametrize("mode", MODES)
def test_one_picture_is_the_same_in_every_mode(mode, tmp_path):
    x = np.where(np.add.outer(np.arange(16), np.arange(16)) % 5 > 2, 255, 0).astype(np.uint8)
    picture = Image.fromarray(x)
    suffix = {"CMYK": "jpg", "F": "tif"}.get(mode, "png")
    for i in range(12):
        if mode == "I;16":
            image = Image.fromarray(x.astype(np.uint16) * 257)
        elif mode == "F":
            image = Image.fromarray(x.astype(np.float32) / 255)
        else:
            image = picture.convert("RGB").convert(mode)
        image.save(tmp_path / f"{i}.{suffix}", **({"quality": 100} if suffix == "jpg" else {}))
    raw = data.raw(DataConfig(name=str(tmp_path)))
    np.testing.assert_allclose(
        raw.x_train[:, ..., 0], np.stack([x] * 12), atol=40 * (mode == "CMYK")
    )


def test_what_systems_leave_in_folders_is_no_image(tmp_path):
    write_images(tmp_path / "own" / "good", [b"%d.png" % i for i in range(12)])
    write_images(tmp_path / "own" / "bad", [b"%d.png" % i for i in range(4)])
    for folder in (
        ".ipynb_checkpoints",
        "@eaDir",
        "__MACOSX",
        "good/.ipynb_checkpoints",
        "bad/@eaDir",
    ):
        write_images(tmp_path / "own" / folder, [b"0.png"])
    (tmp_path / "own/good/Thumbs.db").write_bytes(b"\0")
    (tmp_path / "own/good/._0.png").write_bytes(b"\0")
    (tmp_path / "own/good/gone.png").symlink_to(tmp_path / "nowhere.png")
    raw = data.raw(DataConfig(name=str(tmp_path / "own")))
    assert len(raw.x_train) + len(raw.x_test) == 16
    assert sorted(raw.schema.classes) == ["bad", "good"]
