"""Exported detectors: the same verdicts from one file, with JAX and NumPy alone."""

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from probes import tiny, write_npz

from jaxae import detectors
from jaxae.cli import main as cli
from jaxae.data.arrayfiles import read_npz
from jaxae.errors import UserError
from jaxae.export import card, exporting, loader
from jaxae.workflows import experiment


def finished(folder, method="dense", **changes):
    """A tiny finished run, and its raw test rows."""
    data = write_npz(folder / "x.npz")
    cfg = tiny(method, data__name=f"npz:{data}", run_dir=str(folder / "run"), **changes)
    experiment.run(cfg)
    return folder / "run", read_npz(data)["x_test"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    run, rows = finished(folder)
    return exporting.write(run, folder / "d.zip"), run, rows


def the_same(path, run, rows):
    expected = detectors.judge(detectors.load(run / "detector"), rows)
    found = loader.load(path).judge(rows)
    # A sum divides the rounding of its parts by their spread, which is small over few valid rows.
    atol = 2e-5 if "+" in detectors.load(run / "detector").about.config.score else 1e-6
    np.testing.assert_allclose(found.score, expected.score, rtol=1e-6, atol=atol)
    np.testing.assert_array_equal(found.p_value, expected.p_value)
    np.testing.assert_array_equal(found.is_anomaly, expected.is_anomaly)


def test_an_export_judges_as_the_run_does(made):
    path, run, rows = made
    the_same(path, run, rows)
    the_same(path, run, np.concatenate([rows] * 40))
    one = loader.load(path).judge(rows[:1])
    np.testing.assert_array_equal(one.score, loader.load(path).judge(rows).score[:1])


CASES = {
    "conv": {"method": "conv", "score": "blurred_energy+latent_knn", "ensemble": 2},
    "alocc": {"method": "alocc", "score": "d_of_x", "alocc__spectral": True},
    "map": {"data__input": "gradient_cells", "score": "mse+row_knn"},
    "scaled": {"data__scale": "standard", "model__output_activation": "linear",
               "train__noise_clip": False, "threshold__rule": "conformal:0.1"},
    "tail": {"threshold__rule": "mean_std:2", "threshold__on": "train", "score_dtype": "bfloat16"},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_detector_can_be_exported(name, tmp_path):
    run, rows = finished(tmp_path, **CASES[name])
    the_same(exporting.write(run, tmp_path / "d.zip"), run, rows)


def test_alpha_stays_an_argument(made):
    path, _, rows = made
    detector = loader.load(path)
    for alpha in (0.02, 0.1, 0.5, 0.9):
        found = detector.judge(rows, alpha)
        np.testing.assert_array_equal(found.is_anomaly, found.p_value <= alpha)
    n = detector.manifest["n_calibration"]
    exact = detector.judge(rows, 1 / (n + 1))
    np.testing.assert_array_equal(exact.is_anomaly, exact.p_value == 1 / (n + 1))
    for alpha in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(loader.ExportError, match="alpha is"):
            detector.judge(rows, alpha)


def test_the_file_runs_by_itself_without_jaxae(made, tmp_path):
    path, run, rows = made
    np.save(tmp_path / "rows.npy", rows)
    code = "import sys, runpy; sys.argv[0] = sys.argv[1]; del sys.argv[1]\n"
    code += "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
    code += "except SystemExit as stop: print(stop.code, 'jaxae' in sys.modules)"
    args = [str(path), "rows.npy", "--alpha", "0.1", "--out", "out.csv"]
    done = subprocess.run(
        [sys.executable, "-c", code, *args],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "0 False"
    table = np.loadtxt(tmp_path / "out.csv", delimiter=",", skiprows=1)
    expected = detectors.judge(detectors.load(run / "detector"), rows)
    np.testing.assert_array_equal(table[:, 2], expected.p_value)
    np.testing.assert_array_equal(table[:, 3] == 1, expected.p_value <= 0.1)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (np.zeros((3, 9, 9, 1)), r"give \[N, \*\[8, 8, 1\]\]"),
        (np.zeros((0, 8, 8, 1)), "give"),
        (np.full((3, 8, 8, 1), np.nan), "3 rows hold NaN or infinite values, first row 0"),
        (np.zeros((3, 8, 8, 1), np.uint8), "numbers as they are"),
        (np.full((3, 8, 8, 1), "a"), "the rows are <U1"),
    ],
)
def test_rows_that_it_does_not_judge(rows, says, made):
    with pytest.raises(loader.ExportError, match=says):
        loader.load(made[0]).judge(rows)


def changed(path, out, name, content):
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for one in old.namelist():
            new.writestr(one, content if one == name else old.read(one))
    return out


def test_damage_is_named(made, tmp_path):
    path = made[0]
    (tmp_path / "cut.zip").write_bytes(path.read_bytes()[:-50])
    for name in ("cut.zip", "none.zip"):
        with pytest.raises(loader.ExportError, match="not a readable export"):
            loader.load(tmp_path / name)
    with pytest.raises(loader.ExportError, match=r"program\.bin .* has changed since the export"):
        loader.load(changed(path, tmp_path / "a.zip", loader.PROGRAM, b"other"))
    with pytest.raises(loader.ExportError, match="not a readable export"):
        loader.load(changed(path, tmp_path / "b.zip", loader.MANIFEST, b"[]"))


def test_a_manifest_that_names_what_is_not_there_is_refused(made, tmp_path):
    with zipfile.ZipFile(made[0]) as archive:
        manifest = json.loads(archive.read(loader.MANIFEST))
    for wrong in ({"arrays": "detector/none.npz"}, {"digests": {}}):
        content = json.dumps(manifest | wrong)
        path = changed(made[0], tmp_path / "c.zip", loader.MANIFEST, content)
        with pytest.raises(loader.ExportError, match="the manifest lacks"):
            loader.load(path)


def test_the_file_does_not_overwrite_its_rows(made, tmp_path, monkeypatch, capsys):
    np.save(tmp_path / "rows.npy", made[2])
    monkeypatch.setattr(sys, "path", [str(made[0]), *sys.path])
    rows = str(tmp_path / "rows.npy")
    assert loader.main([rows, "--out", rows]) == 2
    assert "holds the rows themselves" in capsys.readouterr().err
    np.testing.assert_array_equal(np.load(rows), made[2])
    assert loader.main([rows]) == 0


def test_an_export_that_judges_otherwise_is_refused(made, monkeypatch):
    monkeypatch.setattr(loader, "_TOLERANCE", -1.0)
    with pytest.raises(loader.ExportError, match="scores of the golden rows differ"):
        loader.load(made[0])
    loader.load(made[0], check=False)


def test_what_is_too_old_says_how_it_is_rebuilt_and_is(made, tmp_path):
    path, run, rows = made
    with zipfile.ZipFile(path) as archive:
        manifest = json.loads(archive.read(loader.MANIFEST))
    old = loader.Detector
    with pytest.raises(loader.ExportError, match=r"promised .* until .*jaxae export OLD.zip NEW"):
        old(manifest, b"another format", {})
    assert manifest["expires"] > manifest["exported"]
    again = exporting.write(path, tmp_path / "new.zip")
    the_same(again, run, rows)
    with zipfile.ZipFile(path) as one, zipfile.ZipFile(again) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())
        for name in ("MODEL_CARD.md", "model_card.json"):
            assert one.read(name) == other.read(name)


def test_the_card_has_the_runs_metrics_with_intervals(made):
    path, run, _ = made
    report = json.loads((run / "report.json").read_text())
    with zipfile.ZipFile(path) as archive:
        text = archive.read("MODEL_CARD.md").decode()
    low, high = report["auroc_interval"]
    assert f"| auroc | {report['auroc']:.4f} | {low:.4f} - {high:.4f} |" in text
    assert "P-values are ranks" not in text  # nothing was fitted on the calibration rows
    bare = card.make(detectors.load(run / "detector"), run / "detector")
    assert bare["report"] == {}
    assert "## Metrics" not in card.text(bare)


def test_the_command(made, tmp_path, capsys):
    cli.main(["export", str(made[1]), str(tmp_path / "mine.zip")])
    assert "ROWS.npy --alpha 0.05" in capsys.readouterr().out
    for run, out in ((tmp_path, "x.zip"), (made[1], "x.txt"), (made[1], "nowhere/x.zip")):
        with pytest.raises(SystemExit) as stop:
            cli.main(["export", str(run), str(tmp_path / out)])
        assert stop.value.code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine.zip"]
    (tmp_path / "bad.zip").write_bytes(b"no zip")
    with pytest.raises(UserError, match="not a readable export"):
        exporting.write(tmp_path / "bad.zip", tmp_path / "new.zip")
