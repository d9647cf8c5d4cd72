import json
import typing

import numpy as np
import pytest
from probes import DEVICES, assert_same, edit, interrupted, tiny, write_npz

from jaxae import config, detectors
from jaxae.data import corruptions
from jaxae.devices import parallel
from jaxae.errors import UserError
from jaxae.reports import plots
from jaxae.storage import disk, manifest
from jaxae.training import selection
from jaxae.workflows import experiment

COURSE = [
    {"epoch": 1, "valid_loss": 3.0, "pseudo_auroc": 0.7, "test_auroc": 0.8},
    {"epoch": 2, "valid_loss": 1.0, "pseudo_auroc": 0.9, "test_auroc": 0.7},
    {"epoch": 3, "valid_loss": 1.0, "pseudo_auroc": 0.8, "test_auroc": 0.95},
    {"epoch": 4, "valid_loss": 2.0, "pseudo_auroc": 0.9, "test_auroc": 0.9},
]


def selecting(name, **changes):
    return tiny(train__select=name, train__oracle=True, **changes)


def test_a_configuration_can_name_every_choice():
    hint = typing.get_type_hints(config.TrainConfig)["select"]
    assert set(typing.get_args(hint)) == selection.CHOICES.keys()


def test_a_choice_by_test_labels_must_be_allowed():
    with pytest.raises(UserError, match=r"test labels.*--train\.oracle"):
        selection.check(tiny(train__select="oracle"))
    for name in selection.CHOICES:
        selection.check(selecting(name))
    oracles = {name for name, choice in selection.CHOICES.items() if choice.oracle}
    assert oracles == {"oracle"}


def test_each_choice_takes_its_best_epoch_and_of_equals_the_later_one():
    epochs = {name: selection.best_epoch(COURSE, of) for name, of in selection.CHOICES.items()}
    assert epochs == {"last": 4, "valid_loss": 3, "pseudo_anomalies": 4, "oracle": 3}


@pytest.mark.parametrize("name", [name for name in selection.CHOICES if name != "last"])
def test_what_is_kept_epoch_by_epoch_is_what_the_log_says(name):
    choice, kept, weights = selection.CHOICES[name], None, {"w": np.zeros(2, np.float32)}
    layout = parallel.Layout(DEVICES[:1])
    for line in COURSE:
        weights["w"][:] = line["epoch"]  # the arrays of an epoch are gone in the next one
        found = {k: np.array([v, v], np.float32) for k, v in line.items()}
        kept = selection.keep(choice, kept, line["epoch"], weights, found, 1, layout)
    assert kept.epoch == [selection.best_epoch(COURSE, choice)]
    np.testing.assert_array_equal(kept.variables["w"], np.repeat(kept.epoch, 2))
    assert selection.choice_of(selecting(name)) == choice
    assert selection.choice_of(selecting("last")) is None


def test_a_report_sets_the_choices_side_by_side():
    found = selection.summary(selecting("pseudo_anomalies"), COURSE)
    assert found["selected_by"] == "pseudo-anomalies"
    assert found["selected_epoch"] == 4
    side = found["selection"]
    assert side["oracle"] == {"epoch": 3, "auroc": 0.95}
    assert side["valid_loss"] == {"epoch": 3, "auroc": 0.95}
    assert side["last"] == side["pseudo_anomalies"] == {"epoch": 4, "auroc": 0.9}
    assert side["gap"] == pytest.approx(0.05)
    assert selection.summary(selecting("oracle"), COURSE)["selection"]["gap"] == 0
    unwatched = [{"epoch": 1, "valid_loss": 3.0}]
    found = selection.summary(selecting("valid_loss"), unwatched)
    assert found == {"selected_by": "validation loss", "selected_epoch": 1}


@pytest.fixture(scope="module")
def cfg(tmp_path_factory):
    path = write_npz(tmp_path_factory.mktemp("data") / "blobs.npz")
    return tiny(data__name=f"npz:{path}", devices=1, train__epochs=4, train__checkpoint_every=2)


@pytest.fixture
def undrawn(monkeypatch):
    monkeypatch.setattr(plots, "draw", lambda *args: [])


def run(cfg, folder, **changes):
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    report = experiment.run(edit(cfg, {"run_dir": str(folder)} | dotted))
    return report, detectors.load(folder / "detector").variables


def growing_loss(monkeypatch, folder):
    """The first epoch is made the best by its validation loss."""
    watch = selection.watch

    def doctored(*args):
        measure, start = watch(*args), len(disk.read_metrics(folder / "metrics.jsonl"))
        losses = iter(range(start + 1, 9))

        def begin(*of):
            measured = measure(*of)
            return lambda: measured() | {"valid_loss": np.float32([next(losses)])}

        return begin

    monkeypatch.setattr(selection, "watch", doctored)


def test_the_selected_epoch_becomes_the_detector_and_survives_a_kill(
    cfg, tmp_path, monkeypatch, undrawn
):
    first, after_first = run(cfg, tmp_path / "first", train__epochs=1)
    growing_loss(monkeypatch, tmp_path / "broken")
    with interrupted(epoch=4), pytest.raises(KeyboardInterrupt):
        run(cfg, tmp_path / "broken", train__select="valid_loss")
    report, chosen = run(cfg, tmp_path / "broken", train__select="valid_loss")
    assert_same(chosen, after_first)  # of epoch 1, of which there is no checkpoint
    assert report["selected_by"] == "validation loss"
    assert (report["selected_epoch"], report["epochs"]) == (1, 4)
    for name in ("auroc", "threshold", "train_loss"):
        assert report[name] == first[name]
    assert "selection" not in report


@pytest.mark.slow
def test_a_selection_outlives_more_epochs_and_no_other_choice_takes_its_folder(
    cfg, tmp_path, monkeypatch, undrawn
):
    growing_loss(monkeypatch, tmp_path)
    by_loss = {"train__select": "valid_loss"}
    _, chosen = run(cfg, tmp_path, train__epochs=2, **by_loss)
    longer, still = run(cfg, tmp_path, train__epochs=4, **by_loss)
    assert_same(still, chosen)
    assert longer["selected_epoch"] == 1
    with pytest.raises(UserError, match=r"train\.select is 'valid_loss' there and 'last' here"):
        run(cfg, tmp_path)
    lines = disk.read_metrics(tmp_path / "metrics.jsonl")
    lines[2]["valid_loss"] = 0.5
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text)
    manifest.withdraw(tmp_path)  # with it, the changed file itself is refused
    with pytest.raises(UserError, match=r"keeps epoch 1, but .* epoch 3 is the best"):
        run(cfg, tmp_path, **by_loss)


def test_the_choices_of_a_monitored_run_stand_side_by_side(cfg, tmp_path, undrawn):
    report, _ = run(cfg, tmp_path, train__select="pseudo_anomalies", train__monitor=True)
    lines = disk.read_metrics(tmp_path / "metrics.jsonl")
    areas = [line["test_auroc"] for line in lines]
    assert report["warnings"] == []
    side = report["selection"]
    assert side["last"] == {"epoch": 4, "auroc": areas[-1]}
    assert side["oracle"]["auroc"] == max(areas)
    assert side["pseudo_anomalies"]["epoch"] == report["selected_epoch"]
    assert report["auroc"] == pytest.approx(areas[report["selected_epoch"] - 1], abs=1e-6)
    assert side["gap"] == pytest.approx(max(areas) - report["auroc"], abs=1e-6)


@pytest.mark.slow
def test_an_oracle_is_chosen_by_test_rows_and_says_so(cfg, tmp_path, undrawn):
    report, _ = run(cfg, tmp_path, train__select="oracle", train__oracle=True)
    lines = disk.read_metrics(tmp_path / "metrics.jsonl")
    assert report["selected_by"] == "test labels (oracle)"
    assert report["auroc"] == pytest.approx(max(line["test_auroc"] for line in lines), abs=1e-6)
    assert "pseudo_auroc" not in lines[0]
    assert "selection" not in report


def test_pseudo_anomalies_paste_a_patch_of_another_row():
    x = np.arange(6, dtype=np.float32).reshape(6, 1, 1, 1) * np.ones((1, 8, 8, 1), np.float32)
    before = x.copy()
    pasted = corruptions.pseudo_anomalies(x, seed=0)
    np.testing.assert_array_equal(x, before)
    changed = pasted != x
    assert (changed.sum(axis=(1, 2, 3)) <= 4 * 4).all()
    assert changed.any()
    for row, difference in zip(pasted, changed, strict=True):
        assert len(np.unique(row[difference])) <= 1  # all from one donor
    np.testing.assert_array_equal(corruptions.pseudo_anomalies(x, seed=0), pasted)


@pytest.mark.parametrize("shape", [(8, 8, 1), (20, 2), (9,), (1,), (1, 1, 3), (3, 1)])
def test_pseudo_anomalies_are_patches_of_other_rows_in_rows_of_any_shape(shape):
    x = np.random.default_rng(0).random((30, *shape), np.float32)
    pasted = corruptions.pseudo_anomalies(x, seed=1)
    assert pasted.shape == x.shape
    np.testing.assert_array_equal(pasted, corruptions.pseudo_anomalies(x, seed=1))
    changed = pasted != x
    assert changed.reshape(30, -1).any(axis=1).mean() > 0.8
    if len(shape) == 1:  # a feature keeps its place, since others have other units
        for row, place in zip(*np.nonzero(changed), strict=True):
            assert pasted[row, place] in x[:, place]
    assert set(np.unique(pasted)) <= set(np.unique(x))


@pytest.mark.parametrize("groups", [1, 2])
def test_runs_side_by_side_keep_the_weights_of_their_own_best_epochs(groups):
    choice, best = selection.CHOICES["valid_loss"], None
    losses = np.array([[3, 2, 2, 4], [1, 1, 3, 3], [2, 1, 5, 0], [5, 5, 1, 1]], "f")  # of 4 models
    layout = parallel.Layout(DEVICES[:groups], [1] * 4, groups)
    for epoch in range(1, 5):
        of_epoch = np.full((4, 3), epoch, "f") + 10 * np.arange(4, dtype="f")[:, None]
        variables = layout.place({"w": of_epoch})
        metrics = {"valid_loss": losses[:, epoch - 1]}
        best = selection.keep(choice, best, epoch, variables, metrics, 2, layout)
    assert best.epoch.tolist() == [2, 4]  # means over two models: 2 1.5 2.5 3.5 and 3.5 3 3 .5
    kept = layout.fetch(best.variables)["w"]
    np.testing.assert_array_equal(kept[:, 0], [2, 12, 24, 34])
