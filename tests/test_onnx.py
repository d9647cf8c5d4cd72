"""ONNX models judge as the detector does; without the extra, the error names it."""

from importlib.util import find_spec

import numpy as np
import pytest
from probes import tiny, write_npz

from jaxae import detectors
from jaxae.cli import main as cli
from jaxae.data.arrayfiles import read_npz
from jaxae.errors import Unchecked, UserError
from jaxae.export import to_onnx
from jaxae.workflows import experiment

INSTALLED = find_spec("jax2onnx") and find_spec("onnxruntime")
needed = pytest.mark.skipif(
    not INSTALLED, reason='no jax2onnx: install "jaxae[onnx]" in an environment of its own'
)


def finished(folder, method="dense", **changes):
    data = write_npz(folder / "x.npz")
    experiment.run(tiny(method, data__name=f"npz:{data}", run_dir=str(folder / "run"), **changes))
    return folder / "run", read_npz(data)["x_test"]


CASES = {
    "dense": {"score": "mse+row_knn"},
    "ensemble": {"ensemble": 2, "score": "blurred_energy"},
    "conv": {"method": "conv", "threshold__rule": "conformal:0.1"},
    "fcn": {"method": "fcn"},
    "largest error": {"score": "max_error"},
    "map": {"data__input": "gradient_cells"},
    "alocc": {"method": "alocc", "score": "d_of_x", "alocc__spectral": True},
}


@needed
@pytest.mark.parametrize("name", CASES)
def test_a_model_in_its_own_runtime_judges_as_the_detector_does(name, tmp_path, capsys):
    import onnxruntime

    run, rows = finished(tmp_path, **CASES[name])
    cli.main(["export", str(run), str(tmp_path / "m.onnx")])
    assert "48 rows agree" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    score, p_value, is_anomaly = session.run(["score", "p_value", "is_anomaly"], {"rows": rows})
    expected = detectors.judge(detectors.load(run / "detector"), rows)
    np.testing.assert_allclose(score, expected.score, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(p_value, expected.p_value, atol=1e-6)
    np.testing.assert_array_equal(is_anomaly, expected.is_anomaly)
    if "d_of_x" not in CASES[name].values():
        (score_map,) = session.run(["score_map"], {"rows": rows})
        maps = detectors.score_maps(detectors.load(run / "detector"), rows)
        np.testing.assert_allclose(score_map, maps, rtol=1e-4, atol=1e-4 * maps.max())


@needed
def test_a_changed_model_is_named_and_no_file_is_replaced_unasked(tmp_path, capsys):
    import onnx

    run, _ = finished(tmp_path)
    path = tmp_path / "m.onnx"
    cli.main(["export", str(run), str(path)])
    written = path.read_bytes()
    cli.main(["verify", str(path)])
    assert "rule quantile:0.95" in capsys.readouterr().out
    with pytest.raises(UserError, match="it exists; add --overwrite"):
        to_onnx.write(run, path)
    model = onnx.load_model_from_string(written)
    model.graph.initializer[0].raw_data = bytes(len(model.graph.initializer[0].raw_data))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="has changed since the export"):
        to_onnx.check(path)
    path.write_bytes(written.replace(b"quantile:0.95", b"quantile:0.99"))
    with pytest.raises(UserError, match="has changed since the export"):
        to_onnx.check(path)
    for content in (b"", b"text", written[: len(written) // 2]):
        path.write_bytes(content)
        with pytest.raises((UserError, Unchecked)):
            to_onnx.check(path)


@needed
def test_a_model_whose_scores_differ_is_not_written(tmp_path, monkeypatch):
    run, _ = finished(tmp_path)
    monkeypatch.setattr(to_onnx, "_TOLERANCE", -1.0)
    with pytest.raises(UserError, match="differs from the detector"):
        to_onnx.write(run, tmp_path / "m.onnx")
    assert not list(tmp_path.glob("*.onnx*"))


@pytest.mark.skipif(bool(INSTALLED), reason="the extra is installed")
def test_without_the_extra_the_error_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["export", str(tmp_path), str(tmp_path / "m.onnx")])
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert 'pip install "jaxae[onnx]"' in err
    assert err.count("\n") == 1
    (tmp_path / "m.onnx").write_bytes(b"")
    with pytest.raises(SystemExit) as stop:
        cli.main(["verify", str(tmp_path / "m.onnx")])
    assert stop.value.code == (2 if find_spec("onnx") else 3)
