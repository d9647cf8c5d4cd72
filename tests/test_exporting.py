"""Exported detectors: the same verdicts from one file, with JAX and NumPy alone."""

import functools
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pytest
from probes import tiny, write_npz

from jaxae import detectors
from jaxae.cli import main as cli
from jaxae.data.arrayfiles import read_npz
from jaxae.devices import precision
from jaxae.errors import Unchecked, UserError
from jaxae.export import card, checking, exporting, loader
from jaxae.stats import conformal
from jaxae.workflows import experiment


def finished(folder, method="dense", side=8, **changes):
    """A tiny finished run, and its raw test rows."""
    data = write_npz(folder / "x.npz", side=side)
    cfg = tiny(method, data__name=f"npz:{data}", run_dir=str(folder / "run"), **changes)
    experiment.run(cfg)
    return folder / "run", read_npz(data)["x_test"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    run, rows = finished(folder)
    return exporting.write(run, folder / "d.zip"), run, rows


def the_same(path, run, rows, rounds_by_place=False):
    expected = detectors.judge(detectors.load(run / "detector"), rows)
    exported, cfg = loader.load(path), detectors.load(run / "detector").about.config
    found = exported.judge(rows)
    # XLA maps and scores rows in one program; on four devices, wide convolutions round otherwise;
    # so do the sums of features of patches in a program for several platforms.
    is_near = cfg.data.input != "none" or cfg.method == "alocc" or cfg.score == "patches"
    is_near |= rounds_by_place
    # A sum divides the rounding of its parts by their spread, which is small over few valid rows.
    near = {"rtol": 1e-6, "atol": 2e-5 if "+" in cfg.score else 1e-6}
    same = functools.partial(np.testing.assert_allclose, **near if is_near else {"rtol": 0})
    same(found.score, expected.score)
    np.testing.assert_array_equal(found.p_value, expected.p_value)
    np.testing.assert_array_equal(found.is_anomaly, expected.is_anomaly)
    if exported.manifest["places"]:
        same(
            exported.score_maps(rows), detectors.score_maps(detectors.load(run / "detector"), rows)
        )
    else:
        with pytest.raises(loader.ExportError, match="says nothing of single places"):
            exported.score_maps(rows)


def test_an_export_judges_as_the_run_does(made):
    path, run, rows = made
    # A run computes 128 rows together, an export 64.
    the_same(path, run, np.concatenate([rows] * 40), rounds_by_place=precision.rounds_by_place())
    one = loader.load(path).judge(rows[:1])
    np.testing.assert_array_equal(one.score, loader.load(path).judge(rows).score[:1])


CASES = {
    "conv": {"method": "conv", "score": "blurred_energy+latent_knn", "ensemble": 2},
    "alocc": {"method": "alocc", "score": "d_of_x", "alocc__spectral": True},
    "map": {"data__input": "gradient_cells", "score": "mse+row_knn"},
    "crops": {"method": "fcn", "train__crop": 5, "score": "mse+latent_knn", "ensemble": 2},
    "scaled": {"data__scale": "standard", "model__output_activation": "linear",
               "train__noise_clip": False, "threshold__rule": "conformal:0.1"},
    "tail": {"threshold__rule": "mean_std:2", "threshold__on": "train", "score_dtype": "bfloat16"},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.optimised
@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_detector_can_be_exported(name, tmp_path):
    run, rows = finished(tmp_path, **CASES[name])
    the_same(exporting.write(run, tmp_path / "d.zip"), run, rows)


@pytest.mark.slow
@pytest.mark.optimised
@pytest.mark.parametrize("changes", [{"train__crop": 16}, {"method": "conv"}], ids=["fcn", "conv"])
def test_large_images_are_computed_few_at_a_time_in_exports_too(changes, tmp_path):
    run, rows = finished(tmp_path, **{"method": "fcn", "side": 128} | changes)
    the_same(exporting.write(run, tmp_path / "d.zip"), run, rows)


@pytest.mark.slow
@pytest.mark.optimised
def test_pixels_are_divided_in_an_export_as_in_a_run(tmp_path):
    path = write_npz(tmp_path / "x.npz", side=72)
    arrays = {name: np.asarray(value) for name, value in read_npz(path).items()}
    pixels = {name: np.uint8(255 * x) for name, x in arrays.items() if name.startswith("x_")}
    np.savez(path, **arrays | pixels)
    for score in ("patches", "mse:max"):
        settings = {"score": score, "train__crop": 16, "run_dir": str(tmp_path / score)}
        experiment.run(tiny("fcn", data__name=f"npz:{path}", **settings))
        file = exporting.write(tmp_path / score, tmp_path / f"{score}.zip")
        the_same(file, tmp_path / score, pixels["x_test"])


def test_alpha_stays_an_argument(made):
    path, _, rows = made
    detector = loader.load(path)
    n = detector.manifest["n_calibration"]
    for alpha in (1 / (n + 1), 0.1, 3 / (n + 1), 0.5, 0.9):
        found = detector.judge(rows, alpha)
        np.testing.assert_array_equal(found.is_anomaly, found.p_value <= alpha)
    exact = detector.judge(rows, 1 / (n + 1))
    np.testing.assert_array_equal(exact.is_anomaly, exact.p_value == 1 / (n + 1))
    for alpha in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(loader.ExportError, match="alpha is"):
            detector.judge(rows, alpha)
    low = np.nextafter(1 / (n + 1), 0)
    with pytest.raises(loader.ExportError, match=f"too low for {n} calibration rows") as here:
        detector.judge(rows, low)
    with pytest.raises(UserError) as there:
        conformal.rank_allowed(n, 0.9 * low)  # the same words as in training
    words = " calibration rows, whose smallest p-value is "
    assert words in str(here.value)
    assert words in str(there.value)
    remedy = float(re.search(r"at least ([\d.]+)", str(here.value))[1])
    assert (detector.judge(rows, remedy).p_value >= 1 / (n + 1)).all()


@pytest.mark.parametrize("n", [9, 19, 48, 99, 999, 4095])
def test_p_values_are_compared_with_alpha_as_they_are_written(n, made, monkeypatch):
    """P-values are k / (n + 1) in float64, so that a literal alpha of the same value flags them."""
    detector, k = loader.load(made[0], check=False), np.arange(1, n + 2)
    parts = np.zeros(n + 1, "f4"), k.astype("f4") / np.float32(n + 1), np.zeros(n + 1, bool)
    monkeypatch.setitem(detector.manifest, "n_calibration", n)
    monkeypatch.setattr(detector, "_program", lambda *args: parts)
    for alpha in (1 / (n + 1), 3 / (n + 1), 0.29, 0.3, 0.7, *(0.05, 0.01) * (n > 98)):
        judged = detector.judge(made[2][:1], alpha)
        written = [float(repr(p)) for p in judged.p_value.tolist()]
        np.testing.assert_array_equal(written, k / (n + 1))
        np.testing.assert_array_equal(judged.is_anomaly, np.array(written) <= alpha)
        assert judged.is_anomaly.sum() == conformal.rank_allowed(n, alpha)


def test_the_file_runs_by_itself_without_jaxae(made, tmp_path):
    path, run, rows = made
    np.save(tmp_path / "rows.npy", rows)
    code = "import sys, runpy; sys.argv[0] = sys.argv[1]; del sys.argv[1]\n"
    code += "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
    code += "except SystemExit as stop: print(stop.code, 'jaxae' in sys.modules)"
    args = [str(path), "rows.npy", "--alpha", "0.1", "--out", "out.csv", "--maps", "maps.npy"]
    done = subprocess.run(
        [sys.executable, "-c", code, *args],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "0 False"
    table = np.loadtxt(tmp_path / "out.csv", delimiter=",", skiprows=1)
    detector = detectors.load(run / "detector")
    expected = detectors.judge(detector, rows)
    np.testing.assert_array_equal(table[:, 2], expected.p_value)
    np.testing.assert_array_equal(table[:, 3] == 1, expected.p_value <= 0.1)
    np.testing.assert_array_equal(
        np.load(tmp_path / "maps.npy"), detectors.score_maps(detector, rows)
    )


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (np.zeros((3, 9, 9, 1)), r"give \[N, \*\[8, 8, 1\]\]"),
        (np.zeros((0, 8, 8, 1)), "give"),
        (np.full((3, 8, 8, 1), np.nan), "3 rows hold NaN or infinite values, first row 0"),
        (np.zeros((3, 8, 8, 1), np.uint8), "numbers as they are"),
        (np.full((3, 8, 8, 1), "a"), "the rows are <U1"),
        (np.full((3, 8, 8, 1), None), "the rows are object"),
        (np.zeros((3, 8, 8, 1), complex), "the rows are complex"),
        (np.array(1.0), r"the rows are \[\]"),
        (np.ma.masked_less(np.zeros((3, 8, 8, 1)), 1), "masked values"),
    ],
)
def test_rows_that_it_does_not_judge(rows, says, made):
    with pytest.raises(loader.ExportError, match=says):
        loader.load(made[0]).judge(rows)


def test_a_detector_refuses_masked_rows_too(made):
    rows = np.ma.masked_array(made[2], mask=made[2] == made[2].max())
    with pytest.raises(UserError, match="masked values"):
        detectors.judge(detectors.load(made[1] / "detector"), rows)
    assert len(detectors.judge(detectors.load(made[1] / "detector"), rows.data).score) == len(rows)


def files_of(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(files, out):
    """An archive of files, and of further ones in a list of pairs, for names that come twice."""
    with zipfile.ZipFile(out, "w") as new, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, content in files.items() if isinstance(files, dict) else files:
            new.writestr(name, content)
    return out


def sealed(files, out, **said):
    """A forged archive: whatever it holds and says has the digests that it should have."""
    files = dict(files)
    manifest = json.loads(files.pop(loader.MANIFEST)) | said
    of_files = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    manifest |= {"digests": said.get("digests", of_files)}
    manifest["digest"] = loader.digest_of(manifest)
    return zipped({loader.MANIFEST: loader.as_text(manifest), **files}, out)


def npz(**arrays):
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def arrays_of(content):
    with np.load(io.BytesIO(content)) as stored:
        return {**stored}


def refused(path, says, look=loader.load):
    """The line with which an archive is refused; any other error ends the test."""
    with pytest.raises(loader.ExportError) as error:
        look(path)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_any_changed_byte_of_its_contents_is_named(made, tmp_path):
    files, out = files_of(made[0]), tmp_path / "a.zip"
    for name, content in files.items():
        for at in (0, len(content) // 2, len(content) - 1):
            other = bytearray(content)
            other[at] ^= 1
            refused(zipped(files | {name: bytes(other)}, out), name.rpartition("/")[2])
        without = {other: part for other, part in files.items() if other != name}
        refused(zipped(without, out), name)
    refused(zipped(files | {"numpy.py": b""}, out), "without a digest, numpy.py")
    for name in (loader.MANIFEST, loader.PROGRAM):
        refused(zipped([*files.items(), (name, files[name])], out), "in it twice")
    spaced = files[loader.MANIFEST].replace(b'"rule"', b'"rule": "max", "rule"')
    refused(zipped(files | {loader.MANIFEST: spaced}, out), "manifest.json")


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x05\x06" + bytes(18), None])
def test_what_is_no_archive_is_one_line(content, tmp_path):
    path = tmp_path / "x.zip"
    path.mkdir() if content is None else path.write_bytes(content)
    refused(path, "not a readable export")
    refused(tmp_path / "none.zip", "not a readable export")


def test_a_cut_encrypted_or_exploding_archive_is_one_line(made, tmp_path):
    content, out = made[0].read_bytes(), tmp_path / "a.zip"
    for size in (10, len(content) // 2, len(content) - 1):
        out.write_bytes(content[:size])
        refused(out, "not a readable export")
    for at, value in ((8, 1), (10, 99)):  # encrypted; packed by an unknown method
        entry = bytearray(content)
        entry[content.index(b"PK\x01\x02") + at] = value
        out.write_bytes(entry)
        refused(out, "not a readable export")
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x", bytes(2**25))
    refused(out, "would unpack to 3")
    packed = io.BytesIO()
    np.savez_compressed(packed, rows=np.zeros(2**22))
    refused(sealed(files_of(made[0]) | {loader.GOLDEN: packed.getvalue()}, out), "would unpack")


ODD = (None, True, 0, -1, 2.5, float("nan"), "", "x", [], ["x"], [0], {}, {"a": 1}, 10**30)
FREE = {"jax", "rule", "units"}  # texts, which `jaxae verify` compares with the detector


def test_a_forged_manifest_of_any_kind_is_one_line(made, tmp_path):
    files, out = files_of(made[0]), tmp_path / "a.zip"
    for text in (b"", b"[]", b"3", b'"x"', b"null", b"{", b"\xff", b"[" * 10**5, b"{}", b"NaN"):
        refused(zipped(files | {loader.MANIFEST: text}, out), "a.zip")
    for name in json.loads(files[loader.MANIFEST]).keys() & loader._FIELDS:
        for value in ODD:
            if (name, value) == ("cpu_options", {}) or (name in FREE and type(value) is str):
                continue
            refused(sealed(files, out, **{name: value}), "")
    refused(sealed(files, out, digests={}), "without a digest")
    refused(sealed(files, out, cpu_options={"xla_dump_to": "/tmp/x"}), "cpu_options")


def test_forged_arrays_are_one_line(made, tmp_path):
    files, out = files_of(made[0]), tmp_path / "a.zip"
    name = json.loads(files[loader.MANIFEST])["arrays"]
    golden, arrays = arrays_of(files[loader.GOLDEN]), arrays_of(files[name])
    n, few = arrays["decision/calibration"].size, {k: a[:0] for k, a in golden.items()}
    p, flags = golden["p_value"], golden["is_anomaly"]
    for forged, says in (
        (few, "one value for every row"),
        ({"rows": golden["rows"]}, "lacks score"),
        (golden | {"score": np.full(32, None)}, "cannot be read"),
        (golden | {"score": np.zeros(32, "M8[s]")}, "not all finite numbers"),
        (golden | {"score": golden["score"] * np.nan}, "not all finite numbers"),
        (golden | {"score": golden["score"] * 1.001}, "scores of the golden rows differ"),
        (golden | {"rows": golden["rows"][:, :3]}, "the rows are"),
        (golden | {"p_value": p + 1 / (n + 1)}, "32 golden p-values are no rank"),
        (golden | {"is_anomaly": flags ^ (np.arange(32) == 3)}, "1 decisions on golden rows"),
        (golden | {"maps": golden["maps"][:3]}, "its maps are not all finite values [4, 8, 8]"),
        (golden | {"maps": golden["maps"] * np.nan}, "not all finite values"),
    ):
        refused(sealed(files | {loader.GOLDEN: npz(**forged)}, out), says)
    others = sealed(files | {loader.GOLDEN: npz(**golden | {"maps": golden["maps"] * 1.01})}, out)
    refused(others, "score maps of the golden rows differ here by 9.9e-03", checking.check)
    detector = loader.load(others)
    for _ in range(2):  # until they agree
        with pytest.raises(loader.ExportError, match="score maps of the golden rows differ"):
            detector.score_maps(made[2])
    loader.load(others, check=False).score_maps(made[2])
    refused(sealed(files, out, places=[4, 8]), "not all finite values [4, 4, 8]")
    unreadable = sealed(files | {loader.MAPS: b"x"}, out)
    refused(unreadable, "cannot be read", lambda path: loader.load(path).score_maps(made[2]))
    wrong = arrays["decision/state/threshold"] + 1
    for forged, says in (
        ({"a": n}, "lacks scaling/shift"),
        (arrays | {"decision/state/threshold": wrong}, "threshold is"),
        (arrays | {"decision/calibration": np.zeros(n + 1, "f4")}, f"n_calibration is {n}"),
        (arrays | {"scaling/scale": np.ones((3, 3), "f4")}, "cannot judge the rows"),
        (arrays | {"scaling/scale": np.full((8, 8, 1), "a")}, "not a readable export"),
    ):
        refused(sealed(files | {name: npz(**forged)}, out), says)
    refused(sealed(files | {name: files[name][:-30]}, out), "cannot be read")


def test_verify_finds_what_is_forged_with_digests_that_fit(made, tmp_path):
    files, out = files_of(made[0]), tmp_path / "a.zip"
    about = json.loads(files[card.JSON])
    better = json.dumps(about | {"score": "other"}, indent=2).encode()
    other_report = card.files(about | {"report": about["report"] | {"threshold": 9.0}})
    assert checking.check(made[0])
    for forged, said, says in (
        ({}, {"rule": "max"}, "says rule 'max'"),
        ({}, {"units": "metres"}, "says units 'metres'"),
        ({}, {"expires": "2999-01-01"}, "says expires '2999-01-01'"),
        ({"jax.py": b""}, {}, "holds jax.py"),
        ({loader.CODE: files[loader.CODE] + b"import os\n"}, {}, "loader.py is not what"),
        ({"__main__.py": b"print(1)"}, {}, "__main__.py is not what"),
        ({"flatbuffers/builder.py": b""}, {}, "flatbuffers/builder.py is not what"),
        (
            {card.TEXT: files[card.TEXT].replace(b"95 %", b"99 %")},
            {},
            "MODEL_CARD.md does not follow",
        ),
        ({card.JSON: better}, {}, "says score 'other'"),
        (other_report, {}, "the report in model_card.json says threshold 9.0"),
        ({}, {"certified": True}, "says certified"),
        ({card.JSON: b"[]"}, {}, "model_card.json is not as it was written"),
    ):
        refused(sealed(files | forged, out, **said), says, checking.check)


def test_what_another_version_wrote_is_not_checked_and_said(made, tmp_path):
    files, out = files_of(made[0]), tmp_path / "a.zip"
    with pytest.raises(Unchecked, match=r"code is of another jaxae, 0\.1"):
        checking.check(sealed(files, out, exported_by="0.1"))
    program = exporting.serialised_program(detectors.load(made[1] / "detector"))
    assert program == files[loader.PROGRAM]  # from other lines of code
    for name in (loader.PROGRAM, loader.MAPS):
        with pytest.raises(Unchecked, match="its program is another"):
            checking.check(sealed(files | {name: files[name] + bytes(4)}, out))
    with pytest.raises(Unchecked, match=r"program is of JAX 99\.0, not the one here"):
        checking.check(sealed(files | {loader.PROGRAM: program + bytes(4)}, out, jax="99.0"))
    unreadable = files | {loader.PROGRAM: b"of a later format"}
    with pytest.raises(Unchecked, match="cannot be read"):
        checking.check(sealed(unreadable, out, jax="99.0"))
    refused(sealed(unreadable, out), "cannot be read", checking.check)


def first_format(path, out, **changed):
    """An archive as earlier versions wrote it."""
    files = files_of(path)
    manifest = json.loads(files[loader.MANIFEST]) | {"format": 1}
    golden = arrays_of(files[loader.GOLDEN])
    del golden["is_anomaly"], golden["maps"], files[loader.MAPS]
    del manifest["digest"], manifest["exported_by"], manifest["places"]
    files[loader.GOLDEN] = npz(**golden)
    covered = (*(n for n in files if "detector/" in n), loader.PROGRAM, loader.GOLDEN, loader.CODE)
    manifest["digests"] = {n: hashlib.sha256(files[n]).hexdigest() for n in covered}
    text = json.dumps(manifest | changed, indent=2)
    return zipped(files | {loader.MANIFEST: text}, out)


def test_an_export_from_before_score_maps_is_read_and_renewed_with_them(made, tmp_path):
    path, run, rows = made
    files, old = files_of(path), tmp_path / "old.zip"
    golden = arrays_of(files[loader.GOLDEN])
    del golden["maps"], files[loader.MAPS]
    manifest = json.loads(files[loader.MANIFEST]) | {"format": 2}
    del manifest["places"]
    files |= {loader.GOLDEN: npz(**golden), loader.MANIFEST: json.dumps(manifest).encode()}
    sealed(files, old)
    expected = detectors.judge(detectors.load(run / "detector"), rows)
    np.testing.assert_array_equal(loader.load(old).judge(rows).score, expected.score)
    with pytest.raises(loader.ExportError, match=r"this adds them: jaxae export OLD\.zip NEW\.zip"):
        loader.load(old).score_maps(rows)
    with pytest.raises(Unchecked, match="not compared"):
        checking.check(old)
    the_same(exporting.write(old, tmp_path / "new.zip"), run, rows)


def test_an_export_of_an_earlier_version_is_read_and_renewed(made, tmp_path, capsys):
    old = first_format(made[0], tmp_path / "old.zip")
    expected = detectors.judge(detectors.load(made[1] / "detector"), made[2])
    np.testing.assert_array_equal(loader.load(old).judge(made[2]).score, expected.score)
    with pytest.raises(Unchecked, match="no digest"):
        checking.check(old)
    new = exporting.write(old, tmp_path / "new.zip")
    assert "no digest" in capsys.readouterr().err
    assert "golden rows judged" in checking.check(new)
    for changed in ({"threshold": 9.0}, {"n_calibration": 99}, {"digests": {}}):
        with pytest.raises(UserError, match=r"threshold|n_calibration|digest"):
            exporting.write(first_format(made[0], old, **changed), tmp_path / "x.zip")


def test_the_source_of_an_export_is_checked_first(made, tmp_path, capsys):
    files = files_of(made[0])
    for forged in ({loader.GOLDEN: npz(**few_golden(files))}, {card.JSON: b"{}"}):
        with pytest.raises(UserError, match=r"a\.zip"):
            exporting.write(sealed(files | forged, tmp_path / "a.zip"), tmp_path / "x.zip")
    run = shutil.copytree(made[1], tmp_path / "run")
    (run / "manifest.json").unlink()
    exporting.write(run, tmp_path / "y.zip")
    assert "not checked for changes" in capsys.readouterr().err
    for name in ("report.json", "detector/description.json"):
        run = shutil.copytree(made[1], tmp_path / name.replace("/", "-"))
        (run / name).write_text((run / name).read_text().replace("tiny", "other"))
        with pytest.raises(UserError, match=f"{name} has changed since the run ended"):
            exporting.write(run, tmp_path / "x.zip")
    assert not (tmp_path / "x.zip").exists()


def few_golden(files):
    golden = arrays_of(files[loader.GOLDEN])
    return golden | {"score": golden["score"] + 1}


def test_a_signature_is_that_of_a_key(made, tmp_path, capsys):
    keys = [tmp_path / name for name in ("own", "other")]
    for key in keys:
        key.write_bytes(key.name.encode() * 8)
    path = str(tmp_path / "d.zip")
    cli.main(["export", str(made[1]), path, "--sign", str(keys[0])])
    cli.main(["verify", path, "--sign", str(keys[0])])
    assert "signed with this key" in capsys.readouterr().out
    (tmp_path / "short").write_bytes(b"")
    damaged = sealed(files_of(path), tmp_path / "forged.zip", jax="0.0")
    for file, key, says in (
        (path, keys[1], "not signed with this key"),
        (damaged, keys[0], "not signed with this key"),
        (made[0], keys[0], "not signed"),
        (path, tmp_path / "short", "holds 0 bytes"),
        (path, tmp_path / "none", "cannot be read"),
        (made[1], keys[0], "not a .zip"),
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main(["verify", str(file), "--sign", str(key)])
        assert stop.value.code == 2
        out, err = capsys.readouterr()
        assert says in out + err
        assert err.count("\n") == 1


def test_the_file_does_not_overwrite_its_rows(made, tmp_path, monkeypatch, capsys):
    np.save(tmp_path / "rows.npy", made[2])
    monkeypatch.setattr(sys, "path", [str(made[0]), *sys.path])
    rows = str(tmp_path / "rows.npy")
    table = str(shutil.copy(rows, tmp_path / "rows.csv"))  # the suffix does not matter to NumPy
    (tmp_path / "kept.csv").write_text("kept")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "kept.csv").write_text("kept")
    (tmp_path / "run" / "manifest.json").write_text('{"files": {"kept.csv": ""}}')
    for out, says in (
        (rows, "name a .csv"),
        (str(made[0]), "name a .csv"),
        (str(tmp_path / "judged.npz"), "name a .csv"),
        (str(tmp_path / "nowhere" / "x.csv"), "name a .csv"),
        (table, "holds the rows themselves"),
        (str(tmp_path / "run" / "kept.csv"), "part of a run"),
    ):
        assert loader.main([table, "--out", out, "--overwrite"]) == 2
        assert says in capsys.readouterr().err
    kept = str(tmp_path / "kept.csv")
    assert loader.main([rows, "--out", kept]) == 2
    assert "exists; add --overwrite" in capsys.readouterr().err
    assert (tmp_path / "kept.csv").read_text() == "kept"
    assert loader.main([rows, "--out", kept, "--overwrite"]) == 0
    assert (tmp_path / "kept.csv").read_text().startswith("row,score,p_value,is_anomaly")
    np.testing.assert_array_equal(np.load(rows), made[2])
    for name, content in (("e.npy", b""), ("t.npy", b"text")):
        (tmp_path / name).write_bytes(content)
        assert loader.main([str(tmp_path / name)]) == 2
        assert "is no .npy or .npz" in capsys.readouterr().err
    np.save(tmp_path / "o.npy", np.array([None]), allow_pickle=True)
    assert loader.main([str(tmp_path / "o.npy")]) == 2
    assert "no readable .npy or .npz (Object arrays" in capsys.readouterr().err
    assert loader.main([str(tmp_path)]) == 2


def test_an_export_that_judges_otherwise_is_refused(made, monkeypatch):
    monkeypatch.setattr(loader, "TOLERANCE", -1.0)
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
    assert "Score maps [8, 8] say where a row is anomalous." in text
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
