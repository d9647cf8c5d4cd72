import contextlib
import dataclasses
import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
from probes import edit, images, interrupted, tiny

from experiments import label_free
from jaxae import config, detectors
from jaxae.config.grids import ProtocolConfig
from jaxae.data.arrayfiles import read_npz
from jaxae.errors import UserError
from jaxae.reports import pages, protocols
from jaxae.storage import checkpoint, disk, manifest, run_folder
from jaxae.training import train
from jaxae.workflows import baselines, experiment, protocol
from jaxae.workflows.protocol import expansion, sharing

CLASSES = (0, 1, 2)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three classes of blobs, apart by their brightness; 36, 24 and 30 rows to train on."""
    path = tmp_path_factory.mktemp("classes") / "blobs.npz"
    sizes = {"train": (36, 24, 30), "test": (12, 12, 12)}
    arrays = {}
    for seed, (part, of_class) in enumerate(sizes.items()):
        y = np.repeat(CLASSES, of_class)
        arrays[f"x_{part}"] = images(len(y), seed) * (0.4 + 0.3 * y[:, None, None, None])
        arrays[f"y_{part}"] = y
    np.savez(path, **arrays)
    return path


def whole(data, folder, **changes):
    """The smallest protocol: three classes, two seeds."""
    small = tiny(train__epochs=2, data__name=f"npz:{data}", run_dir=str(folder))
    fields = {field.name: getattr(small, field.name) for field in dataclasses.fields(small)}
    given = {"seeds": 2, "baselines": ("pca",)} | changes
    own = {name: given.pop(name) for name in list(given) if "__" not in name}
    dotted = {name.replace("__", "."): value for name, value in given.items()}
    return edit(ProtocolConfig(**fields | own), dotted)


def scores_of(folder):
    return {path.parent.name: read_npz(path) for path in folder.glob("members/*/scores.npz")}


def same(one, other):
    assert one.keys() == other.keys()
    for name, arrays in one.items():
        for key, values in arrays.items():
            np.testing.assert_array_equal(values, other[name][key])


def test_slices_merge_and_a_finished_protocol_is_only_reported(data, tmp_path, capsys):
    report = protocol.run(whole(data, tmp_path / "whole", devices=1))
    for part in ("0:2", "2:6"):
        merged = protocol.run(whole(data, tmp_path / "parts", devices=1, members=part))
        assert (merged is None) == (part == "0:2")
    assert "4 members are not trained yet, first 2" in capsys.readouterr().out
    same(scores_of(tmp_path / "whole"), scores_of(tmp_path / "parts"))
    assert {**merged, "wall_s": 0} == {**report, "wall_s": 0}
    again = protocol.run(whole(data, tmp_path / "parts"))
    out = capsys.readouterr().out
    assert "0 of 6 to train" in out
    assert "mean" in out
    assert {**again, "wall_s": 0} == {**report, "wall_s": 0}
    stored = json.loads((tmp_path / "parts/report.json").read_text())
    assert stored["classes"].keys() == {"0", "1", "2"}
    low, high = stored["auroc_interval"]
    assert low < stored["auroc"] < high
    assert stored["auroc"] == pytest.approx(
        np.mean([of["auroc"] for of in stored["classes"].values()])
    )
    assert (tmp_path / "parts/figures/one_vs_rest.png").exists()
    with pytest.raises(UserError, match="holds 2 epochs; ask for at least as many"):
        protocol.run(whole(data, tmp_path / "parts", train__epochs=1))
    assert not list((tmp_path / "parts").glob("checkpoints/*"))
    logs = {path.read_text() for path in tmp_path.glob("parts/members/*/metrics.jsonl")}
    assert len(logs) == 6, "each member has its own metrics"
    _judges_alone(tmp_path / "parts", data)


def test_each_member_is_trained_by_one_call_of_those_at_the_same_time(data, tmp_path):
    cfg = whole(data, tmp_path / "run")
    members, _ = expansion.expand(cfg)

    def claim(part, todo, finished=()):
        return held.enter_context(
            sharing.claimed(dataclasses.replace(cfg, members=part), todo, lambda m: m in finished)
        )

    with contextlib.ExitStack() as held:
        assert claim("0:3", members[:3], finished=members[1:2]) == [members[0], members[2]]
        assert claim("0:3", members[:3]) == [], "they would share a folder of checkpoints"
        assert claim("1:6", members[1:]) == [members[1], *members[3:]], "1 was not kept locked"
        assert claim("", members) == []
        with pytest.raises(UserError, match="in use by another process"):
            experiment.run(members[0])
    with sharing.claimed(cfg, members, lambda m: False) as mine:
        assert mine == members


def of_two(data, folder):
    return whole(data, folder, classes=(0,), devices=1, baselines=())


@pytest.fixture(scope="module")
def two(data, tmp_path_factory):
    """The finished protocol of one class and two seeds."""
    folder = tmp_path_factory.mktemp("two") / "run"
    protocol.run(of_two(data, folder))
    return folder


def test_members_of_another_call_are_waited_for_and_taken_over(
    data, two, tmp_path, monkeypatch, capsys
):
    first, second = (
        tmp_path / "shared/members/class0-seed0",
        tmp_path / "shared/members/class0-seed1",
    )
    other = contextlib.ExitStack()
    other.enter_context(run_folder.locked(tmp_path / "shared", ".1-2.lock"))
    other.enter_context(run_folder.locked(first))
    looks = []

    def ends(seconds):
        looks.append(((first / "report.json").exists(), (second / "report.json").exists()))
        other.close()  # the other process is killed

    monkeypatch.setattr(sharing, "time", types.SimpleNamespace(sleep=ends))
    report = protocol.run(of_two(data, tmp_path / "shared"))
    assert looks == [(False, True)]
    assert "1 members, first class0-seed0, are in use by another process" in capsys.readouterr().out
    same(scores_of(two), scores_of(tmp_path / "shared"))
    assert report["members"] == 2
    assert manifest.changed(tmp_path / "shared") == {}


@pytest.mark.slow
def test_processes_with_overlapping_slices_make_the_protocol_of_one(data, tmp_path):
    """One of the processes is killed while it trains; another waits for its members."""
    args = ["run", "one_vs_rest", "--data.name", f"npz:{data}", "--method", "dense", "--seeds", "1"]
    args += ["--model.hidden", "16", "--model.latent", "4", "--devices", "1", "--baselines", "pca"]
    args += ["--train.epochs", "40", "--data.input", "none", "--score", "mse"]

    def started(folder, *more):
        command = [sys.executable, "-m", "jaxae", *args, "--run-dir", str(folder), *more]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    started(tmp_path / "alone").communicate(timeout=100)
    shared = tmp_path / "shared"
    killed, end = started(shared, "--members", "0:2"), time.monotonic() + 100
    while not list(shared.glob("checkpoints/0-2/*0")) and time.monotonic() < end:
        time.sleep(0.02)
    killed.send_signal(signal.SIGSTOP)  # it holds its members, and makes no progress
    waiting, same_slice = started(shared, "--members", "1:3"), started(shared, "--members", "0:2")
    for process in (waiting, same_slice):
        lines = iter(process.stdout.readline, "")
        assert any("are in use by another process: waiting" in line for line in lines)
    killed.kill()
    reports = [process.communicate(timeout=100)[0] for process in (waiting, same_slice)]
    assert [waiting.returncode, same_slice.returncode] == [0, 0]
    assert any("mean" in report for report in reports)
    same(scores_of(tmp_path / "alone"), scores_of(shared))
    assert manifest.changed(shared) == {}
    killed.communicate()


def test_what_is_scored_again_withdraws_all_that_was_made_of_it(data, two, tmp_path):
    """A slice of a finished grid: what is left says nothing of the whole."""
    cfg = of_two(data, shutil.copytree(two, tmp_path / "run"))
    pages.write(tmp_path / "run")
    protocol.run(cfg)  # makes the report again, so the page is of another
    assert not (tmp_path / "run/report.html").exists()
    assert manifest.changed(tmp_path / "run") == {}
    pages.write(tmp_path / "run")
    made = ("manifest.json", "report.json", "report.html", "figures/one_vs_rest.png")
    assert all((tmp_path / "run" / name).exists() for name in made)
    other = dataclasses.replace(cfg, score="mae", members="0:1")
    assert protocol.run(other) is None
    assert not any((tmp_path / "run" / name).exists() for name in made)


def _judges_alone(folder, data):
    member = folder / "members/class1-seed1"
    stored = read_npz(member / "scores.npz")
    found = detectors.judge(detectors.load(member / "detector"), read_npz(data)["x_test"])
    np.testing.assert_array_equal(found.score, stored["test"])
    np.testing.assert_array_equal(stored["test_y"], read_npz(data)["y_test"] != 1)


@pytest.mark.slow
def test_a_member_is_the_experiment_alone(data, tmp_path):
    cfg = whole(data, tmp_path / "grid", devices=1)
    protocol.run(cfg)
    member = expansion.expand(cfg)[0][3]
    assert (member.data.normal, member.seed) == ((1,), 1)
    alone = dataclasses.replace(member, run_dir=str(tmp_path / "alone"), devices=1)
    report = experiment.run(alone)
    one, other = (read_npz(folder / "scores.npz") for folder in (member.run_path, alone.run_path))
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
    held = json.loads((member.run_path / "report.json").read_text())
    timed = {"steps_per_s", "wall_s", "compile_s"}
    assert {k: v for k, v in held.items() if k not in timed}.items() <= report.items()


@pytest.mark.slow
def test_a_call_that_was_stopped_goes_on(data, tmp_path):
    def cfg(name):
        return whole(data, tmp_path / name, devices=1, train__epochs=4, train__checkpoint_every=2)

    protocol.run(cfg("whole"))
    with interrupted(epoch=3), pytest.raises(KeyboardInterrupt):
        protocol.run(cfg("stopped"))
    assert (tmp_path / "stopped/checkpoints/all/2").is_dir()
    # One member was finished before the next stop: the others find themselves in the checkpoint.
    shutil.copytree(
        tmp_path / "whole/members/class0-seed0",
        tmp_path / "stopped/members/class0-seed0",
        dirs_exist_ok=True,
    )
    held = tmp_path / "stopped/members/class0-seed0/config.json"
    held.write_text(held.read_text().replace("/whole/", "/stopped/"))
    protocol.run(cfg("stopped"))
    same(scores_of(tmp_path / "whole"), scores_of(tmp_path / "stopped"))
    lines = (tmp_path / "stopped/members/class0-seed1/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_selected_epoch_survives_a_stop(data, tmp_path):
    def cfg(name):
        return whole(
            data, tmp_path / name, classes=(0, 1), devices=1, train__epochs=4,
            train__checkpoint_every=2, train__select="valid_loss", optim__lr=0.03,
        )  # fmt: skip

    protocol.run(cfg("whole"))
    with interrupted(epoch=3), pytest.raises(KeyboardInterrupt):
        protocol.run(cfg("stopped"))
    protocol.run(cfg("stopped"))
    same(scores_of(tmp_path / "whole"), scores_of(tmp_path / "stopped"))


def epochs_before(monkeypatch):
    """Of every training, the epochs that its members have behind them when it begins."""
    fit, epochs = train.fit, []

    def spy(learner, x, cfg, layout, *, members, state, **more):
        done = 0 if state is None else train.epochs_done(state, members.steps)
        epochs.append((len(members.steps), done))
        return fit(learner, x, cfg, layout, members=members, state=state, **more)

    monkeypatch.setattr(train, "fit", spy)
    return epochs


@pytest.mark.slow
def test_members_that_are_asked_for_later_train_after_those_of_the_checkpoint(
    data, tmp_path, monkeypatch
):
    def cfg(name, **more):
        return whole(
            data, tmp_path / name, devices=1, train__epochs=4, train__checkpoint_every=2, **more
        )

    protocol.run(cfg("whole"))
    with interrupted(epoch=3), pytest.raises(KeyboardInterrupt):
        protocol.run(cfg("grown", classes=(0, 1), seeds=1))
    trainings = epochs_before(monkeypatch)
    with interrupted(epoch=1), pytest.raises(KeyboardInterrupt):  # of the members asked for now
        protocol.run(cfg("grown"))
    assert trainings == [(2, 2), (4, 0)]
    assert (tmp_path / "grown/members/class1-seed0/report.json").exists()
    protocol.run(cfg("grown"))
    assert trainings[2:] == [(4, 0)]
    same(scores_of(tmp_path / "whole"), scores_of(tmp_path / "grown"))
    assert not list((tmp_path / "grown").glob("checkpoints/*"))
    # More seeds than a finished protocol has: only they are trained.
    protocol.run(cfg("grown", seeds=3))
    assert trainings[3:] == [(3, 0)]


@pytest.mark.slow
def test_a_protocol_of_ensembles_and_on_groups_of_devices(data, tmp_path):
    cfg = whole(data, tmp_path / "grid", classes=(0, 1), seeds=1, ensemble=2, devices=1)
    protocol.run(cfg)
    for member in expansion.expand(cfg)[0]:
        alone = dataclasses.replace(member, run_dir=str(tmp_path / member.run_path.name))
        experiment.run(alone)
        one, other = (read_npz(at.run_path / "scores.npz") for at in (member, alone))
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    wide = dataclasses.replace(cfg, run_dir=str(tmp_path / "wide"), ensemble=1, devices=4)
    protocol.run(wide)  # two devices for each model
    protocol.run(dataclasses.replace(wide, run_dir=str(tmp_path / "narrow"), devices=2))
    wide, narrow = scores_of(tmp_path / "wide"), scores_of(tmp_path / "narrow")
    for name, arrays in wide.items():
        np.testing.assert_allclose(arrays["test"], narrow[name]["test"], rtol=1e-4)


@pytest.mark.slow
def test_a_protocol_reads_its_rows_while_it_trains_and_saves_by_the_clock(data, tmp_path):
    more = {"devices": 1, "classes": (0, 1), "seeds": 1, "train__epochs": 3}
    protocol.run(whole(data, tmp_path / "one", **more))
    streamed = whole(data, tmp_path / "other", **more, train__feed="streaming")
    saved = []
    with pytest.MonkeyPatch.context() as patch:
        save = checkpoint.save
        patch.setattr(
            checkpoint, "save", lambda *args: saved.append(args[1]) or save(*args)
        )  # fmt: skip
        protocol.run(edit(streamed, {"train.checkpoint_minutes": 1e-9}))
    assert saved == [1, 2, 3]
    same(scores_of(tmp_path / "one"), scores_of(tmp_path / "other"))


@pytest.mark.slow
def test_a_finished_protocol_is_monitored_by_training_it_again(data, tmp_path):
    more = {"classes": (0, 1), "seeds": 1, "devices": 1, "train__epochs": 3}
    report = protocol.run(whole(data, tmp_path / "run", **more))
    monitored = protocol.run(whole(data, tmp_path / "run", **more, train__monitor=True))
    assert monitored["auroc"] == report["auroc"]
    assert monitored["selection"]["last"] == pytest.approx(report["auroc"], abs=1e-6)


@pytest.mark.slow
def test_a_checkpoint_of_an_older_version_is_named(data, tmp_path, monkeypatch):
    cfg = whole(data, tmp_path, classes=(0,), seeds=1, train__epochs=4, train__checkpoint_every=2)
    save = checkpoint.save
    monkeypatch.setattr(
        checkpoint, "save", lambda *args: save(*args[:3], {"members": args[3]["runs"]})
    )
    with interrupted(epoch=3), pytest.raises(KeyboardInterrupt):
        protocol.run(cfg)
    monkeypatch.undo()
    with pytest.raises(UserError, match="older version, which this one cannot read; remove it"):
        protocol.run(cfg)


@pytest.mark.slow
def test_another_score_needs_no_training(data, tmp_path, monkeypatch):
    protocol.run(whole(data, tmp_path / "run", classes=(0, 1), devices=1))
    monkeypatch.setattr(protocol.training.course, "train_runs", None)
    report = protocol.run(whole(data, tmp_path / "run", classes=(0, 1), devices=1, score="mae"))
    assert report["score"] == "mae"
    monkeypatch.undo()
    other = whole(data, tmp_path / "other", classes=(0, 1), devices=1, score="mae")
    assert protocol.run(other)["auroc"] == report["auroc"]
    same(scores_of(tmp_path / "run"), scores_of(tmp_path / "other"))


@pytest.mark.slow
def test_of_a_sweep_the_lowest_validation_loss_is_the_headline(data, tmp_path):
    cfg = whole(data, tmp_path, classes=(0, 2), sweep=("optim.lr=1e-2,1e-5",), seeds=1)
    report = protocol.run(cfg)
    assert report["members"] == 4
    assert report["point"].startswith("optim.lr 0.01 ")
    best, worst = report["points"].values()
    assert best["valid_loss"] < worst["valid_loss"]
    assert best["auroc"] == report["auroc"]
    assert report["auroc_std"] is None  # of a single seed


@pytest.mark.slow
def test_a_monitored_protocol_says_how_steady_its_epochs_are(data, tmp_path, capsys):
    cfg = whole(data, tmp_path, classes=(0, 1), train__epochs=6, train__monitor=True)
    report = protocol.run(cfg)
    for k, found in report["classes"].items():
        logs = tmp_path.glob(f"members/class{k}-seed*/metrics.jsonl")
        courses = [disk.read_metrics(path) for path in logs]
        spread = [np.std([epoch["test_auroc"] for epoch in of[1:]]) for of in courses]
        assert found["epochs_std"] == pytest.approx(max(spread))
    out = capsys.readouterr().out
    assert "5 epochs" in out
    assert "gap to the oracle" in out


@pytest.mark.slow
def test_a_member_that_diverges_leaves_the_others_finished(data, tmp_path):
    cfg = whole(
        data, tmp_path, classes=(0,), seeds=1, sweep=("optim.lr=1e-3,1e30",),
        model__output_activation="linear",
    )  # fmt: skip
    with pytest.raises(FloatingPointError, match="class0-seed0-lr1e"):
        protocol.run(cfg)
    assert [
        path.name for path in tmp_path.glob("members/*/") if (path / "report.json").exists()
    ] == ["class0-seed0-lr0.001"]
    with pytest.raises(FloatingPointError, match="class0-seed0-lr1e"):  # nor does it train again
        protocol.run(cfg)
    lines = tmp_path / "members/class0-seed0-lr1e+30/metrics.jsonl"
    assert len(lines.read_text().splitlines()) < 2


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"members": "6:9"}, "members 6:9 names none of the 6 members"),
        ({"members": "three"}, "write A:B"),
        ({"members": "-1:2"}, "write A:B"),
        (
            {"sweep": ("optim.eps=1,2",)},
            "may differ only in optim.lr, train.noise_std",
        ),
        ({"sweep": ("optim.epsilon=1,2",)}, "FIELD=A,B,C"),
        ({"sweep": ("model.latent=1,2",)}, "FIELD=A,B,C"),
        ({"sweep": ("optim.lr",)}, "FIELD=A,B,C"),
        ({"sweep": ("optim.lr=1e-3,nan",)}, "optim.lr is nan"),
        ({"sweep": ("optim.lr=0",)}, "optim.lr is 0.0"),
        ({"sweep": ("train.noise_std=0,0.1",)}, "sweep over noise_std cannot mix 0"),
        ({"classes": (7,)}, "names the classes 7"),
        ({"seeds": 0}, "seeds is 0"),
        ({"classes": (1, 1)}, "name each class once"),
        (
            {"sweep": ("optim.lr=1e-3,0.001",)},
            "sweep names optim.lr, or values of it that agree in six digits",
        ),
        (
            {"sweep": ("optim.lr=1e-3", "optim.lr=2e-3")},
            "sweep names optim.lr, or values of it that agree in six digits",
        ),
        ({"seed": 2**32 - 1}, "the last below 2**32"),
        ({"data__normal": (1,)}, "data.normal is (1,), but each of --classes"),
        ({"data__anomaly": (1,)}, "data.anomaly is (1,)"),
        ({"studies": ("roc",)}, "studies is ('roc',), but only single runs use it"),
        ({"profile": True}, "profile is True"),
        ({"train__epochs": 0}, "train.epochs is 0"),
        ({"baselines": ("pca", "pca")}, "name each one once"),
        ({"baselines": ("svm",)}, "unknown baseline 'svm'"),
        ({"train__batch_size": 40}, "train.batch_size 40 exceeds the"),
        ({"devices": 2, "classes": (0,), "seeds": 1, "train__batch_size": 3}, "not divisible by 2"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_written(data, tmp_path, changes, says):
    with pytest.raises(UserError) as told:
        protocol.run(whole(data, tmp_path / "run", **changes))
    assert says in str(told.value)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "run").exists()  # so that the corrected command finds no other settings


@pytest.mark.slow
def test_where_all_that_trains_diverges_other_members_are_scored(data, tmp_path):
    changes = {
        "classes": (0,), "seeds": 1, "sweep": ("optim.lr=1e-3,1e30",),
        "model__output_activation": "linear",
    }  # fmt: skip
    protocol.run(whole(data, tmp_path, members="0:1", **changes))
    with pytest.raises(FloatingPointError, match=r"^class0-seed0-lr1e\+30: "):
        protocol.run(whole(data, tmp_path, score="mae", **changes))
    report = disk.read_json(tmp_path / "members/class0-seed0-lr0.001/report.json")
    assert report["score"] == "mae"


@pytest.mark.slow
def test_a_report_that_cannot_be_written_is_one_line(data, tmp_path):
    (tmp_path / "report.json").mkdir()
    (tmp_path / ".lock").touch()
    with pytest.raises(UserError, match=r"report\.json: .*; fix that"):
        protocol.run(whole(data, tmp_path, classes=(0,), seeds=1, devices=1))


@pytest.mark.slow
def test_a_member_whose_new_scores_were_not_written_is_not_finished(data, tmp_path, monkeypatch):
    changes = {"classes": (0,), "seeds": 1, "devices": 1}
    protocol.run(whole(data, tmp_path, **changes))
    with monkeypatch.context() as patch:
        patch.setattr(protocol.training.experiment.reporting, "make", None)
        with pytest.raises(TypeError):
            protocol.run(whole(data, tmp_path, score="mae", **changes))
    other = whole(data, tmp_path, score="mae", **changes)
    members, datasets = expansion.expand(other)
    assert not expansion.is_finished(members[0], datasets[members[0].data].digest)
    assert protocol.run(other)["score"] == "mae"


@pytest.mark.slow
def test_a_protocol_that_was_monitored_from_its_second_epoch_is_reported(data, tmp_path):
    changes = {"classes": (0, 1), "seeds": 1, "train__checkpoint_every": 1}
    with interrupted(epoch=2), pytest.raises(KeyboardInterrupt):
        protocol.run(whole(data, tmp_path, **changes))
    report = protocol.run(whole(data, tmp_path, train__monitor=True, **changes))
    assert "selection" not in report
    assert "epochs_std" not in report


def test_a_baseline_that_is_not_installed_is_missed_before_training(data, tmp_path, monkeypatch):
    monkeypatch.setattr(baselines.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"jaxae\[pyod\]"):
        protocol.run(whole(data, tmp_path / "run", baselines=("pyod",)))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("report.json", "[]"), ("report.json", "3"), ("config.json", "[]"), ("config.json", "{")),
        *(("scores.npz", "xx"), ("data.json", "[]"), ("data.json", "")),
    ],
)
def test_a_damaged_member_is_not_finished(data, tmp_path, name, text):
    member = expansion.expand(whole(data, tmp_path))[0][0]
    folder = member.run_path
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config.to_json(member))
    (folder / "report.json").write_text('{"epochs": 2}')
    (folder / "data.json").write_text('"digest"')
    np.savez(folder / "scores.npz", test=np.zeros(3))
    assert not expansion.is_finished(member, "digest")
    manifest.seal(folder)
    assert expansion.is_finished(member, "digest")
    assert not expansion.is_finished(member, "of other data")
    (folder / name).write_text(text)
    assert not expansion.is_finished(member, "digest")


@pytest.mark.parametrize("differs", ["test_id", "test_row_digest"])
def test_members_that_judged_other_rows_are_not_put_together(data, tmp_path, differs):
    members = expansion.expand(whole(data, tmp_path, classes=(0,)))[0]
    for i, member in enumerate(members):
        member.run_path.mkdir(parents=True)
        y = np.arange(5) % 2 == 1
        arrays = {"test": np.arange(5.0), "test_y": y, "test_class_id": y.astype(int)}
        arrays |= dict.fromkeys(("test_id", "test_row_digest"), np.arange(5))
        np.savez(member.run_path / "scores.npz", **arrays | {differs: np.arange(5) + i})
    with pytest.raises(
        UserError, match="class0-seed1 and seed 0 of its class have different test rows"
    ):
        protocols._tasks(members)


def test_settings_are_compared_without_a_label(data, tmp_path, monkeypatch, capsys):
    protocol.run(whole(data, tmp_path / "run", classes=(0,), seeds=1))
    monkeypatch.setattr("sys.argv", ["label_free", str(tmp_path / "run")])
    label_free.main()
    assert capsys.readouterr().out.splitlines()[-1].endswith("  run")
    shutil.rmtree(tmp_path / "run/members")
    with pytest.raises(SystemExit) as stop:
        label_free.main()
    assert stop.value.code == 2
    assert "has no members" in capsys.readouterr().err


def test_unlabelled_rows_have_no_classes_to_take_in_turn(tmp_path):
    np.savez(tmp_path / "x.npz", x_train=images(30), x_test=images(9), y_test=np.arange(9) % 2)
    with pytest.raises(UserError, match="give y_train"):
        protocol.run(whole(tmp_path / "x.npz", tmp_path / "run"))


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ((9, 1, 2), "class 0 (a cat) has 1 rows to train on, class 2 (emu) has 2 rows"),
        (
            (9, 9, 3),
            "class 2 (emu) has 2 rows to train on: train.batch_size is 4; set --train.batc",
        ),
    ],
)
def test_a_class_of_few_rows_is_named_with_those_to_keep(rows, says, tmp_path):
    names = np.array(["dog", "a cat", "emu"])
    y, x = np.repeat(names, rows), images(sum(rows))
    np.savez(tmp_path / "x.npz", x_train=x, y_train=y, x_test=images(9), y_test=np.repeat(names, 3))
    cfg = whole(tmp_path / "x.npz", tmp_path / "run", train__batch_size=4)
    with pytest.raises(UserError) as told:
        protocol.run(cfg)
    line = str(told.value)
    assert says in line
    assert "\n" not in line
    kept = tuple(shlex.split(line.partition("--classes ")[2]))
    assert len(expansion.expand(dataclasses.replace(cfg, classes=kept))[1]) == len(kept)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_another_protocol(data, tmp_path):
    protocol.run(whole(data, tmp_path / "run", classes=(0,), seeds=1))
    with pytest.raises(UserError, match=r"another configuration: optim\.lr"):
        protocol.run(whole(data, tmp_path / "run", classes=(0,), seeds=1, optim__lr=0.5))


@pytest.mark.parametrize("name", [name for name in baselines.BASELINES if name != "pyod"])
def test_baselines_score_what_is_strange_higher(name):
    normal, strange = images(60), 1 - images(8)
    found = baselines.scores(name, normal[:50], np.concatenate([normal[50:], strange]), seed=1)
    assert found.dtype == np.float32
    assert found[:10].max() < found[10:].min()
    again = baselines.scores(name, normal[:50], normal[50:], seed=1)
    np.testing.assert_allclose(again, found[:10], rtol=1e-5, atol=1e-7)


def test_nearest_by_hand():
    train, test = images(7), images(5, seed=1)
    apart = np.linalg.norm((test[:, None] - train[None]).reshape(5, 7, -1), axis=2)
    found = baselines.scores("nearest", train, test, seed=0)
    np.testing.assert_allclose(found, apart.min(axis=1), rtol=1e-4)
