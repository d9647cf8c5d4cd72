"""Kinds of files and names that people have, one test each, by family."""

import io
import os
import sys

import numpy as np
import pytest
from PIL import Image

from jaxae import data
from jaxae.cli import main as cli
from jaxae.config import DataConfig
from jaxae.errors import UserError
from jaxae.storage import disk


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nothere.csv", "'nothere.csv' does not exist; check the path"),
        ("folder/of/mine", "'folder/of/mine' does not exist"),
        ("nothing", "unknown dataset or file 'nothing'; known: digits"),
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
