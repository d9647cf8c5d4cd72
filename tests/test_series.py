"""Series as people keep them: times, gaps, groups that take turns, and windows to judge."""

import datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import csv, parquet

from jaxae import data
from jaxae.cli import main as cli
from jaxae.config import DataConfig
from jaxae.data import splits
from jaxae.data.own import files, times, windows
from jaxae.errors import UserError

STEPS = 400


def columns(steps=STEPS, **more):
    y = np.isin(np.arange(steps), [steps - 20, steps - 19]).astype(int)
    return more | {"value": np.sin(np.arange(steps) / 3) + 0.001 * np.arange(steps), "label": y}


def write(path, values):
    csv.write_csv(pa.table(values), path)
    return path


def load(path, **settings):
    return data.raw(DataConfig(name=f"series:{path}", **{"window": 10} | settings))


def same(one, other):
    for a, b in zip(one[:4], other[:4], strict=True):
        np.testing.assert_array_equal(a, b)


def dates(form, start=datetime.datetime(2024, 3, 20, 7), every=3600, steps=STEPS):
    moments = (start + datetime.timedelta(seconds=every * i) for i in range(steps))
    return [moment.strftime(form) for moment in moments]


TIMES = {
    "iso": ("timestamp", dates("%Y-%m-%d %H:%M:%S")),
    "zone": ("when", dates("%Y-%m-%dT%H:%M:%SZ")),
    "fractions": ("when", dates("%Y-%m-%d %H:%M:%S.%f")),
    "american": ("Date", dates("%m/%d/%Y %H:%M")),
    "british": ("Date", dates("%d/%m/%Y %H:%M:%S")),
    "german": ("Zeit", dates("%d.%m.%Y %H:%M")),
    "mail": ("when", dates("%a, %d %b %Y %H:%M:%S GMT")),
    "comma": ("when", dates("%Y-%m-%d %H:%M:%S,250")),
    "month": ("when", dates("%b %d %Y %I:%M%p")),
    "minutes": ("when", dates("%Y-%m-%dT%H:%M")),
    "offset": ("when", dates("%Y-%m-%d %H:%M:%S+01:00")),
    "compact": ("when", dates("%Y%m%dT%H%M%SZ")),
    "days": ("when", dates("%Y-%m-%d", every=86400)),
    "long numbers": ("time", [int(d) for d in dates("%Y%m%d%H%M%S")]),
    "excel": ("time", 45371 + np.arange(STEPS) / 24),
    "half day": ("at", dates("%m/%d/%Y %I:%M:%S %p")),
    "epoch": ("timestamp", 1_425_600_000 + 300 * np.arange(STEPS)),
    "milliseconds": ("x0", 1_425_600_000_000 + 300_000 * np.arange(STEPS)),
    "integers": ("timestamp", 1 + np.arange(STEPS)),
    "floats": ("time_s", 0.02 * np.arange(STEPS)),
    "index": ("Unnamed: 0", np.arange(STEPS)),
    "written days": ("date", [int(d) for d in dates("%Y%m%d", every=86400)]),
}


@pytest.mark.parametrize("kind", TIMES)
@pytest.mark.parametrize("first", [True, False])
def test_a_time_is_no_value_and_is_said(kind, first, tmp_path):
    name, values = TIMES[kind]
    more = {name: values}
    filled = columns(**more) if first else columns() | more
    raw = load(write(tmp_path / "a.csv", filled))
    same(load(write(tmp_path / "plain.csv", columns())), raw)
    assert raw.schema.columns == ("value",)
    is_index = kind == "index" and first  # as pandas writes it: left out of every table
    assert raw.schema.time == (() if is_index else (name,))
    assert f"{name!r}" in " ".join(raw.notes)
    assert not any("uneven" in note or "gap" in note for note in raw.notes)


def test_times_of_parquet_and_those_in_two_columns(tmp_path):
    moments = np.datetime64("2024-01-01T00:00", "us") + np.arange(STEPS) * np.timedelta64(1, "h")
    parquet.write_table(pa.table(columns(at=moments)), tmp_path / "a.parquet")
    assert load(tmp_path / "a.parquet").schema.time == ("at",)
    split = columns(Date=dates("%Y-%m-%d"), Time=dates("%H:%M:%S"))
    raw = load(write(tmp_path / "b.csv", split))
    assert raw.schema.time == ("Date", "Time")
    assert not any("gap" in note for note in raw.notes)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("time", np.random.default_rng(0).normal(5, 1, STEPS)),  # a duration
        ("hour", np.arange(STEPS) % 24),
        ("count", np.cumsum(np.random.default_rng(0).integers(0, 9, STEPS))),
        ("ramp", np.arange(STEPS) * 0.5),
        ("index", np.random.default_rng(0).normal(5, 1, STEPS)),
        ("state", np.zeros(STEPS, int)),
    ],
)
def test_values_that_are_no_time_stay(name, values, tmp_path):
    raw = load(write(tmp_path / "a.csv", columns(**{name: values})))
    assert raw.schema.columns == (name, "value")
    assert (name == "time") == any("does not rise" in note for note in raw.notes)


def test_values_may_be_missing_in_a_series(tmp_path):
    value = [None if i % 50 == 7 else np.sin(i) for i in range(300)]
    columns = {"timestamp": 60 * np.arange(300), "value": value, "other": np.cos(np.arange(300))}
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    settings = {"name": f"series:{tmp_path / 't.parquet'}"}
    with pytest.raises(UserError, match=r"value \(6 rows.*--data.missing median"):
        data.raw(DataConfig(**settings))
    raw = data.raw(DataConfig(**settings, missing="median"))
    assert raw.schema.columns == ("value", "other")
    assert raw.schema.time == ("timestamp",)


def test_the_column_of_several_series_is_asked_for(tmp_path):
    columns = {"v": np.sin(np.arange(300)), "KPI ID": np.repeat(["a1", "b2"], 150)}
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"with --data.group 'KPI ID'"):
        data.raw(DataConfig(name=f"series:{tmp_path / 't.parquet'}"))


def test_the_time_may_be_named_or_denied(tmp_path):
    path = write(tmp_path / "a.csv", columns(ramp=np.arange(STEPS), timestamp=np.arange(STEPS)))
    assert load(path).schema.time == ("timestamp",)
    assert load(path, time="ramp").schema.columns == ("timestamp", "value")
    assert load(path, time="").schema.columns == ("ramp", "timestamp", "value")
    assert load(path, ignore=("timestamp",)).schema.columns == ("ramp", "value")
    with pytest.raises(UserError, match=r"data.time names the column 'nothing'; there are ramp"):
        load(path, time="nothing")
    path = write(tmp_path / "b.csv", columns(colour=["red", "blue"] * (STEPS // 2)))
    with pytest.raises(UserError, match=r"'colour' of data.time holds neither dates nor numbers"):
        load(path, time="colour")
    with pytest.raises(UserError, match=r"data.time is .* does not read it"):
        data.raw(DataConfig(name=f"table:{path}", time="colour"))


def test_a_time_that_goes_back_or_stands_is_refused_with_a_remedy_that_works(tmp_path):
    time = np.arange(STEPS)
    time[[7, 200]] = time[[200, 7]]
    path = write(tmp_path / "a.csv", columns(timestamp=time))
    with pytest.raises(UserError, match=r"goes back in 2 of 399 steps.*--data\.ignore timestamp"):
        load(path)
    assert load(path, ignore=("timestamp",)).schema.columns == ("value",)
    path = write(tmp_path / "c.csv", columns(t=np.arange(STEPS) % 100))
    with pytest.raises(
        UserError, match=r"'t' goes back in 3 .*--data\.group, or .* --data\.ignore t"
    ):
        load(path)
    path = write(tmp_path / "b.csv", columns(timestamp=np.arange(STEPS) // 2, code=time % 2))
    with pytest.raises(UserError, match=r"the same as in the step before in 200 .*--data\.group"):
        load(path)


def test_gaps_and_repeats_are_counted_and_no_window_crosses_a_gap(tmp_path):
    time = np.arange(STEPS) * 60.0
    time[100:] += 86400
    time[250:] += 3600
    time[300] = time[299]
    time[350:] += 120
    values = columns(timestamp=time) | {"value": np.arange(float(STEPS))}
    raw = load(write(tmp_path / "a.csv", values), stride=1)
    starts = np.concatenate([raw.x_train, raw.x_test])[:, 0, 0]
    for gap in (100, 250):
        assert not ((starts < gap) & (starts + 10 > gap)).any()
    said = " ".join(raw.notes)
    assert "10 times the usual 60, which no window crosses: 2, up to 86460" in said
    assert "the step before in 1 steps" in said
    assert "is uneven: 2 of 399 steps are not the usual 60" in said
    said = " ".join(load(tmp_path / "a.csv", ignore=("timestamp",)).notes)
    assert "gap" not in said


def test_series_that_leave_nothing_to_learn_are_one_line(tmp_path):
    path = write(tmp_path / "a.csv", {"at": dates("%Y-%m-%d %H:%M"), "label": np.arange(STEPS) % 2})
    with pytest.raises(UserError, match=r"all columns hold times \(at\)"):
        load(path)
    path = write(tmp_path / "b.csv", columns() | {"label": (np.arange(STEPS) % 9 == 0).astype(int)})
    with pytest.raises(UserError, match="each training window of 10 steps holds an anomalous step"):
        load(path)
    assert load(path, window=4).x_train.shape[1:] == (4, 1)
    path = write(tmp_path / "c.csv", machines(False, steps=9))
    with pytest.raises(UserError, match=r"as a window of 10; lower --data\.window to at most 9"):
        load(path, group="machine")


def machines(turns, steps=60, count=6, anomalous=(5,)):
    """Machines of `steps` steps each, in sequence or in turns; a value names machine and step."""
    machine, step = np.divmod(np.arange(count * steps), steps)
    order = np.argsort(step, kind="stable") if turns else np.arange(count * steps)
    y = np.isin(machine, anomalous) & (step == 30)
    values = {"machine": [f"m{m}" for m in machine], "value": 1000.0 * machine + step, "label": y}
    return {name: np.asarray(v)[order] for name, v in values.items()}


def test_groups_that_take_turns_are_those_that_follow_each_other(tmp_path):
    sorted_file = write(tmp_path / "a.csv", machines(False))
    turns = write(tmp_path / "b.csv", machines(True))
    one, other = load(sorted_file, group="machine"), load(turns, group="machine")
    same(one, other)
    assert any("take turns" in note for note in other.notes)
    assert not any("take turns" in note for note in one.notes)
    for x in (one.x_train, one.x_test):
        assert (x // 1000 == x[:, :1] // 1000).all()
        assert (np.diff(x, axis=1) == 1).all()


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=60))
def test_the_order_of_groups_keeps_every_step_and_their_order(group):
    group = np.array(group)
    order = windows.order(group, len(group))
    assert sorted(order.tolist()) == list(range(len(group)))
    runs = windows.runs(group[order])
    assert len(runs) == len(np.unique(group))
    assert (np.diff([order[begin] for begin, _ in runs]) > 0).all()  # groups by their first step
    for k in np.unique(group):
        assert (np.diff(order[group[order] == k]) > 0).all()


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 90), min_size=0, max_size=20), st.integers(1, 9))
def test_covered_steps_are_those_of_the_windows(start, window):
    steps = 100
    expected = {step for first in start for step in range(first, first + window)}
    found = windows.covered(np.array(start, int), window, steps)
    assert set(np.flatnonzero(found)) == expected


@pytest.mark.parametrize(("anomalous", "tested"), [((2,), {2}), ((1, 4), {1, 4})])
def test_groups_with_anomalies_are_tested(anomalous, tested, tmp_path):
    raw = load(write(tmp_path / "a.csv", machines(False, anomalous=anomalous)), group="machine")
    found = set((raw.x_test[:, 0, 0] // 1000).astype(int).tolist())
    assert tested <= found
    assert len(found) == len(tested) + 1  # and a share of the others
    assert not any("not tested" in note for note in raw.notes)


def test_anomalies_in_training_groups_are_counted(tmp_path):
    path = write(tmp_path / "a.csv", machines(False, anomalous=range(6)))
    raw = load(path, group="machine")
    assert any("5 of 6 anomalous steps are not tested" in note for note in raw.notes)
    table = write(tmp_path / "t.csv", machines(False, anomalous=range(6)))
    raw = data.raw(DataConfig(name=str(table), group="machine"))
    assert "5 of 6 anomalies are among the training rows" in raw.notes[-1]


@settings(deadline=None, max_examples=8)
@given(st.integers(30, 320))
def test_the_share_that_is_named_for_an_early_anomaly_works(at):
    import re
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        values = columns() | {"label": (np.arange(STEPS) == at).astype(int)}
        path = write(Path(folder) / "a.csv", values)
        try:
            raw = load(path)
        except UserError as error:
            share = re.search(r"--data\.test-fraction ([0-9.]+),", str(error))
            if not share:
                assert at < 100  # too few steps are before it to train on
                return
            cfg = DataConfig(name=f"series:{path}", window=10, test_fraction=float(share[1]))
            assert splits.make(data.raw(cfg), cfg).test.y.any()
        else:
            assert (raw.test_class_id == 1).any()


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([[(0, 604)]], (120, 1)),
        ([[(0, 640)]], (128, 1)),
        ([[(0, 40_000)]], (128, 9)),
        ([[(0, 10**7)]], (128, 32)),
        ([[(0, 4000)], [(4000, 4100)]], (50, 1)),  # two windows fit in the test part
        ([[(i, i + 30) for i in range(0, 3000, 30)]], (15, 1)),  # and in a group
        ([[(0, 5)]], (2, 1)),
    ],
)
def test_the_default_window_and_stride_follow_the_steps(parts, expected):
    assert windows.sizes(parts, 0, 0) == expected
    assert windows.sizes(parts, 10, 0)[0] == 10
    assert windows.sizes(parts, 10, 3) == (10, 3)


def test_steps_of_no_window_are_counted(tmp_path):
    values = machines(False) | {"machine": np.array(["a"] * 240 + ["b"] * 7 + ["c"] * 113)}
    raw = load(write(tmp_path / "a.csv", values), group="machine", stride=10)
    covered = len(np.unique(np.concatenate([raw.x_train.ravel(), raw.x_test.ravel()])))
    assert covered < 360
    said = f"{360 - covered} of 360 steps belong to no window (7 in 1 stretches shorter than"
    assert any(said in note for note in raw.notes)


@pytest.mark.parametrize("settings", [{}, {"group": "machine"}])
def test_series_without_labels(settings, tmp_path):
    values = machines(True) if settings else columns(timestamp=np.arange(STEPS))
    del values["label"]
    raw = load(write(tmp_path / "a.csv", values), **settings)
    assert not raw.is_labelled
    cfg = DataConfig(name="x", scale="none")
    made = splits.make(raw, cfg)
    train, valid = (set(part.x.ravel().tolist()) for part in (made.train, made.valid))
    assert not train & valid
    write(tmp_path / "short.csv", {name: v[:8] for name, v in values.items()})
    with pytest.raises(UserError, match=r"lower --data.window"):
        load(tmp_path / "short.csv", **settings)


def test_windows_to_judge_stay_in_their_group_and_carry_the_time(tmp_path):
    values = machines(True)
    values["at"] = np.repeat(dates("%Y-%m-%d %H:%M:%S", steps=60), 6)
    path = write(tmp_path / "a.csv", values)
    schema = load(path, group="machine").schema
    rows = files.rows(path, schema)
    assert rows.x.shape == (6 * 51, 10, 1)
    assert (rows.x // 1000 == rows.x[:, :1] // 1000).all()
    machine = (rows.x[:, 0, 0] // 1000).astype(int)
    step = (rows.x[:, 0, 0] % 1000).astype(int)
    assert rows.named["group"] == [f"m{m}" for m in machine]
    assert rows.named["time"] == [values["at"][6 * s] for s in step]
    assert [int(s) for s in rows.named["source"]] == (6 * step + machine).tolist()
    del values["machine"], values["at"]
    bare = files.rows(write(tmp_path / "b.csv", {n: v[::6] for n, v in values.items()}), schema)
    assert set(bare.named) == {"source"}
    assert "lacks 'machine'" in bare.notes[0]
    assert "lacks 'at'" in bare.notes[1]


def test_arrays_are_judged_by_what_was_trained_on_a_table(tmp_path):
    values = columns(timestamp=np.arange(STEPS))
    path = write(tmp_path / "a.csv", values)
    schema = load(path).schema
    np.save(tmp_path / "a.npy", values["value"])
    one, other = files.rows(path, schema), files.rows(tmp_path / "a.npy", schema)
    np.testing.assert_array_equal(one.x, other.x)
    assert one.named["source"] == other.named["source"]


def test_steps_that_cannot_be_judged_are_counted_or_refused(tmp_path):
    schema = load(write(tmp_path / "a.csv", machines(False)), group="machine").schema
    values = machines(False) | {"machine": np.array(["a"] * 353 + ["b"] * 7)}
    rows = files.rows(write(tmp_path / "b.csv", values), schema)
    assert rows.notes == ("7 of 360 steps belong to no window (7 in 1 stretches shorter than a "
                          "window of 10)",)  # fmt: skip
    few = {name: v[:7] for name, v in values.items()}
    with pytest.raises(UserError, match="7 steps in a row, fewer than a window of 10"):
        files.rows(write(tmp_path / "c.csv", few), schema)


def test_a_new_file_is_judged_in_the_order_of_its_time(tmp_path):
    path = write(tmp_path / "a.csv", columns(timestamp=np.arange(STEPS)))
    schema = load(path).schema
    back = columns(timestamp=np.arange(STEPS)[::-1])
    with pytest.raises(UserError, match=r"goes back in 399 .*or remove the column"):
        files.rows(write(tmp_path / "b.csv", back), schema)
    turns = columns(timestamp=np.arange(STEPS) // 2)  # of two series, unknown to the schema
    with pytest.raises(UserError, match=r"same as in .*; give each series a file of its own"):
        files.rows(write(tmp_path / "c.csv", turns), schema)


def test_dates_in_which_day_and_month_could_be_swapped(tmp_path):
    days = dates("%d/%m/%Y", datetime.datetime(2024, 1, 1), 86400, 12)
    table = pa.table({"d": days})
    seconds = times.read(table, ("d",))
    assert (np.diff(seconds) == 86400).all()


def test_the_command_says_the_time_and_writes_it(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("a.csv", columns(timestamp=np.arange(STEPS)))
    cli.main(["data", "a.csv", "--data.window", "10"])
    assert "  time: timestamp" in capsys.readouterr().out
    cli.main(
        [
            "train",
            "--data.name",
            "a.csv",
            "--data.window",
            "10",
            "--train.epochs",
            "1",
            "--run-dir",
            "r",
        ]
    )
    assert "the time, 'timestamp', is not a feature" in capsys.readouterr().out
    cli.main(["score", "r", "a.csv", "--out", "o.csv"])
    found = csv.read_csv("o.csv")
    assert found["time"].to_pylist() == found["row"].to_pylist() == [*range(STEPS)]


@pytest.mark.parametrize(
    ("shape", "rows", "said"),
    [((9, 6, 4), "auto", "series of 6 steps and 4 channels"), ((9, 6, 6), "auto", "images of one"),
     ((9, 6, 4), "series", ""), ((9, 6), "auto", ""), ((9, 6, 4, 3), "auto", "")],
)  # fmt: skip
def test_what_arrays_mean_is_said_where_it_is_a_guess(shape, rows, said, tmp_path):
    np.savez(tmp_path / "a.npz", x_train=np.random.default_rng(0).normal(size=shape))
    notes = data.raw(DataConfig(name=str(tmp_path / "a.npz"), rows=rows)).notes
    assert any("are read as" in note for note in notes) == bool(said)
    assert said in " ".join(notes)
