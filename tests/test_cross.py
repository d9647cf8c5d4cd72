import dataclasses
import json

import numpy as np
import pytest
from probes import edit, interrupted, tiny, write_npz

from jaxae.cli import main as cli
from jaxae.config.grids import CrossConfig
from jaxae.data.arrayfiles import read_npz
from jaxae.errors import UserError
from jaxae.stats import conformal
from jaxae.storage import manifest
from jaxae.workflows.protocol import cross


def config(folder, **changes):
    """Ninety-six normal blobs, of which models leave some out; anomalies are their negatives."""
    data = write_npz(folder / "blobs.npz")
    small = tiny(train__epochs=3, data__name=f"npz:{data}", run_dir=str(folder / "run"))
    fields = {field.name: getattr(small, field.name) for field in dataclasses.fields(small)}
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    return edit(CrossConfig(**fields, folds=4), dotted)


@pytest.mark.parametrize(("n", "count"), [(10, 2), (11, 4), (9, 9)])
def test_every_row_is_left_out_by_one_model_of_the_folds(n, count):
    parts = cross.folds(n, count, seed=1)
    assert ((~parts.seen).sum(axis=0) == 1).all()
    sizes = (~parts.seen).sum(axis=1)
    assert sizes.max() - sizes.min() <= 1
    for used, seen in zip(parts.used, parts.seen, strict=True):
        np.testing.assert_array_equal(used, np.flatnonzero(seen))


def test_bootstrap_samples_are_as_large_as_the_rows_and_leave_each_one_out():
    parts = cross.bootstrap(50, 20, seed=1)
    for used, seen in zip(parts.used, parts.seen, strict=True):
        assert len(used) == 50
        np.testing.assert_array_equal(np.unique(used), np.flatnonzero(seen))
    assert (~parts.seen).any(axis=0).all()
    assert parts.seen.mean() == pytest.approx(1 - np.exp(-1), abs=0.05)


@pytest.mark.parametrize("bags", [0, pytest.param(24, marks=pytest.mark.slow)])
def test_all_normals_calibrate(tmp_path, bags, capsys):
    report = cross.run(config(tmp_path, bags=bags, alpha=0.1))
    stored = read_npz(tmp_path / "run/scores.npz")
    n = report["n_calibration"]
    assert n == 96
    assert stored["p_value"].min() >= 1 / (n + 1) - 1e-7
    np.testing.assert_array_equal(stored["test_is_anomaly"], stored["p_value"] <= 0.1)
    assert report["recall"] == 1  # negatives are far from anything that was trained on
    assert report["fpr"] <= report["fpr_bound"]
    assert json.loads((tmp_path / "run/report.json").read_text()) == report
    assert (tmp_path / "run/figures/p_values.png").exists()
    assert "fpr_bound" in capsys.readouterr().out
    cli.main(["report", str(tmp_path / "run")])
    page = (tmp_path / "run/report.html").read_text()
    assert f"False alarms at most<b>{report['fpr_bound']:.4f}</b>" in page
    assert manifest.changed(tmp_path / "run") == {}


@pytest.mark.slow
def test_folds_resume_after_a_stop_and_refuse_other_folds(tmp_path):
    def cfg(name, **changes):
        (tmp_path / name).mkdir(exist_ok=True)
        return config(tmp_path / name, train__checkpoint_every=1, devices=1, **changes)

    cross.run(cfg("whole"))
    with interrupted(epoch=3), pytest.raises(KeyboardInterrupt):
        cross.run(cfg("stopped"))
    with pytest.raises(UserError, match=r"4 folds' there and .* 5 folds' here"):
        cross.run(cfg("stopped", folds=5))
    cross.run(cfg("stopped"))
    one, other = (read_npz(tmp_path / name / "run/scores.npz") for name in ("whole", "stopped"))
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
    lines = (tmp_path / "stopped/run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]


def test_folds_are_compared_by_the_models_that_left_them_out(monkeypatch):
    parts = cross.folds(6, 3, seed=0)
    own = np.arange(18.0).reshape(3, 6)
    seen = {}
    monkeypatch.setattr(
        conformal, "cv_plus_p_values", lambda *args: seen.update(args=args) or np.zeros(2)
    )
    cross._p_values(parts, own, np.zeros((3, 2)), bagged=False)
    held_out, fold, _ = seen["args"]
    for i, k in enumerate(fold):
        assert not parts.seen[k, i]
        assert held_out[i] == own[k, i]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"folds": 1}, "there are 1 folds of 96 rows"),
        ({"folds": 97}, "there are 97 folds"),
        ({"bags": 1}, "no model can score them"),
        ({"bags": -1}, "bags is -1"),
        ({"alpha": 0.001}, "too low for 96 calibration rows"),
        ({"score": "mse+mae"}, "standardised on calibration rows"),
        ({"data__scale": "minmax"}, "fitted on calibration rows"),
        ({"data__valid": "test"}, "use --data.valid holdout"),
        (
            {"train__select": "valid_loss"},
            "train.select is 'valid_loss', but the guarantee requires",
        ),
        ({"train__monitor": True}, "train.monitor is True"),
        ({"studies": ("roc",)}, "studies is ('roc',)"),
        ({"threshold__rule": "max"}, "threshold.rule is 'max', but --alpha decides"),
        ({"train__epochs": 0}, "train.epochs is 0"),
        ({"train__batch_size": 80}, "train.batch_size 80 exceeds the 72 training rows"),
    ],
)
def test_what_would_break_the_promise_is_refused(tmp_path, changes, says):
    with pytest.raises(UserError) as told:
        cross.run(config(tmp_path, **changes))
    assert says in str(told.value)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "run").exists()  # so that the corrected command finds no other settings
