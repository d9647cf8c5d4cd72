"""A run goes on only with the data, the settings and the log that it was made with."""

import json
import re
import shutil

import numpy as np
import pytest
from probes import edit, images, tiny, write_npz

from jaxae import data
from jaxae.config import DataConfig
from jaxae.data import splits
from jaxae.data.raw_data import Raw
from jaxae.errors import UserError
from jaxae.methods import learners
from jaxae.reports import plots
from jaxae.storage import manifest
from jaxae.workflows import experiment


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch):
    monkeypatch.setattr(plots, "draw", lambda *args: [])


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A finished run of two epochs: its folder and configuration."""
    folder = tmp_path_factory.mktemp("identity")
    source = write_npz(folder / "blobs.npz")
    changes = {"data.name": f"npz:{source}", "run_dir": str(folder / "run"), "devices": 1}
    cfg = edit(tiny("dense", train__checkpoint_every=1), changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "draw", lambda *args: [])
        experiment.run(cfg)
    return folder, cfg


@pytest.fixture
def again(ran, tmp_path):
    """A copy of that run, without its manifest, and a function that enters it again."""
    shutil.copytree(ran[0], tmp_path / "copy")
    folder = tmp_path / "copy" / "run"
    source = f"npz:{tmp_path / 'copy' / 'blobs.npz'}"
    for path in (folder / "config.json", *folder.glob("checkpoints/*/about/metadata")):
        path.write_text(path.read_text().replace(f"npz:{ran[0] / 'blobs.npz'}", source))
    for path in folder.glob("checkpoints/*/digests.json"):  # they know of the replacement
        path.unlink()
    manifest.withdraw(folder)
    cfg = edit(ran[1], {"run_dir": str(folder), "data.name": source})

    def enter(**changes):
        return experiment.run(edit(cfg, {k.replace("__", "."): v for k, v in changes.items()}))

    return folder, enter


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("epochs", [2, 4])
@pytest.mark.parametrize("changed", ["x_train", "x_test", "y_test"])
def test_rows_or_classes_replaced_under_their_name_are_refused(changed, epochs, again):
    folder, enter = again
    path = folder.parent / "blobs.npz"
    with np.load(path) as stored:
        arrays = dict(stored)
    if changed == "y_test":
        arrays[changed] = arrays[changed][::-1].copy()
    else:
        arrays[changed][0, 0, 0, 0] += np.float32(0.25)
    np.savez(path, **arrays)
    before = contents(folder)
    with pytest.raises(UserError, match=r"another configuration: data_digest is .* there and"):
        enter(train__epochs=epochs)
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"optim__lr": 0.5}, "optim.lr is 0.003 there and 0.5 here"),
     ({"seed": 3}, "seed is 0 there and 3 here")],
)  # fmt: skip
def test_a_checkpoint_is_of_its_own_configuration_though_config_json_is_gone(changes, words, again):
    folder, enter = again
    (folder / "config.json").unlink()
    (folder / "data.json").unlink()
    with pytest.raises(UserError, match=words):
        enter(**changes)
    assert enter()["epochs"] == 2  # the same settings still go on


def test_a_checkpoint_is_of_its_own_data_though_data_json_is_gone(again):
    folder, enter = again
    (folder / "data.json").unlink()
    write_npz(folder.parent / "blobs.npz", seed=7)
    with pytest.raises(UserError, match="data_digest"):
        enter(train__epochs=3)


LOST, BROKEN = "does not hold the 2 epochs", "line 1, is not a JSON object"


@pytest.mark.parametrize(
    ("damage", "refused"),
    [(lambda text: text[:-20], LOST),
     (lambda text: text.replace('"epoch": 1', '"epoch": 7', 1), LOST),
     (lambda text: "", LOST), (lambda text: "5\n[]\n", BROKEN),
     (lambda text: text.replace("{", "\x00", 1), BROKEN)],
    ids=["cut", "flipped", "empty", "no objects", "binary"],
)  # fmt: skip
def test_a_log_that_lost_an_epoch_is_named_before_anything_is_made_of_it(damage, refused, again):
    folder, enter = again
    log = folder / "metrics.jsonl"
    log.write_text(damage(log.read_text()))
    report = (folder / "report.json").read_bytes()
    with pytest.raises(UserError, match=rf"metrics\.jsonl,? {refused}"):
        enter(score="mae")
    log.unlink()
    with pytest.raises(UserError, match=r"metrics\.jsonl does not hold the 2 epochs"):
        enter()
    assert (folder / "report.json").read_bytes() == report


@pytest.mark.parametrize("name", ["metrics.jsonl", "provenance.jsonl", "tuning.json"])
def test_records_of_a_finished_training_are_refused_if_they_changed(name, again):
    folder, enter = again
    manifest.seal(folder)
    text = (folder / name).read_text()
    (folder / name).write_text(re.sub(r"\d", "7", text))
    before = contents(folder)
    with pytest.raises(UserError, match=f"{name} has changed since the run ended"):
        enter()
    assert contents(folder) == before
    (folder / name).write_text(text)
    enter(score="mae")
    assert not manifest.changed(folder)


def test_a_checkpoint_has_as_many_epochs_behind_it_as_its_name_says(again):
    folder, enter = again
    (folder / "checkpoints/2").rename(folder / "checkpoints/3")
    log = folder / "metrics.jsonl"
    log.write_text(log.read_text() + json.dumps({"epoch": 3, "loss": 0.1}) + "\n")
    with pytest.raises(UserError, match=r"checkpoints/3 holds 2 epochs; rename it back$"):
        enter(train__epochs=4)


def test_the_log_is_ahead_of_the_checkpoint_never_behind(again):
    """A kill between the two leaves a line too many, which is written again."""
    folder, enter = again
    log = folder / "metrics.jsonl"
    lines = log.read_text()
    log.write_text(lines + json.dumps({"epoch": 3, "loss": 9.0}) + "\n" + '{"epo')
    report = enter(train__epochs=3)
    assert log.read_text().startswith(lines)
    assert report["epochs"] == 3
    assert report["train_loss"] != 9.0


def test_the_digest_is_of_rows_classes_and_splits_and_of_nothing_else():
    raw = Raw(images(40, 1), None, images(30, 2), (np.arange(30) > 20).astype(np.int32))
    cfg = DataConfig()
    digest = splits.make(raw, cfg).digest
    assert len(digest) == 64
    assert splits.make(raw, cfg).digest == digest
    others = [
        splits.make(raw._replace(x_test=raw.x_test[::-1].copy()), cfg),
        splits.make(raw._replace(test_class_id=raw.test_class_id[::-1].copy()), cfg),
        splits.make(raw._replace(x_train=(255 * raw.x_train).astype(np.uint8),
                                 x_test=(255 * raw.x_test).astype(np.uint8)), cfg),
        splits.make(raw, edit(tiny(), {"data.split_seed": 5}).data),
    ]  # fmt: skip
    assert len({digest, *(made.digest for made in others)}) == 5
    assert data.load(DataConfig(normal=(1,))).digest != data.load(DataConfig(normal=(2,))).digest


def test_a_run_goes_on_with_the_choices_of_speed_that_it_began_with(again, tmp_path, monkeypatch):
    folder, enter = again
    began = json.loads((folder / "tuning.json").read_text())
    shutil.copytree(folder, tmp_path / "other")
    expected = enter(run_dir=str(tmp_path / "other"), train__epochs=4)
    table = {"methods": {"dense": {"part": 1 + began["part"], "share": 1}}}
    (tmp_path / "table.json").write_text(json.dumps(table))
    monkeypatch.setenv("JAXAE_TUNING", str(tmp_path / "table.json"))
    learners._built.cache_clear()
    try:
        assert enter(train__epochs=4)["digest"] == expected["digest"]
        assert json.loads((folder / "tuning.json").read_text()) == began
        enter(run_dir=str(tmp_path / "new"))
        assert json.loads((tmp_path / "new" / "tuning.json").read_text())["share"] == 1
    finally:
        learners._built.cache_clear()
