"""One command measures a device: deadlines hold, findings survive, pages say what was measured."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import accelerator_check, accelerator_report
from benchmarks.on_device import marked_tests, part, players, results, speed, stages, table
from benchmarks.on_device.stages import Part, Stage

ROOT = Path(__file__).parents[1]
GPU = {"platform": "gpu", "kind": "NVIDIA H100 80GB HBM3", "count": 1}
COMMON = {
    "schema": results.SCHEMA, "device": GPU, "versions": {"jax": "0.12.0", "torch": "2.9.0"},
    "revision": "abc", "rehearsal": False, "stage": "speed",
}  # fmt: skip

# Parts of a stage as a user of deadlines might meet them.
PARTS = {
    "well": "def main(order):\n    order.journal.write('stage', part='own', outcome='said')\n",
    "raises": "def main(order):\n    raise KeyError('no such thing')\n",
    "sleeps": """
import subprocess, sys, time
def main(order):
    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
    (order.out / 'child').write_text(str(child.pid))
    order.journal.write('stage', part='own', outcome='said', seconds=0.0)
    time.sleep(600)
""",
}


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """A folder for results; modules of `PARTS` can be named as parts."""
    for name, text in PARTS.items():
        (tmp_path / f"part_{name}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    out = tmp_path / "out"
    out.mkdir()
    return out


def order_of(out):
    return {"out": str(out), "common": COMMON, "began": time.time(), "rehearsal": False,
            "models": [], "environment": {}}  # fmt: skip


def lines(out):
    return [json.loads(line) for line in (out / results.NAME).read_text().splitlines()]


def run_parts(out, allowed, *names):
    stage = Stage("equality", 1.0, 1.0, tuple(Part(f"part_{name}", name) for name in names))
    journal = results.Journal(out, COMMON, time.time())
    return stages.run(stage, order_of(out), allowed, journal)


def has_ended(pid):
    """Whether a process that was killed has gone; the system may take a moment.

    One that waits for its parent to notice its end has gone, too.
    """
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_a_part_that_overruns_is_ended_with_its_children_and_leaves_its_findings(
    parts, monkeypatch
):
    def clock():
        """The time is up as soon as the part has written what it finds."""
        has_found = (parts / results.NAME).is_file() and lines(parts)
        return time.monotonic() + (100 if has_found else 0)

    monkeypatch.setattr(stages, "time", SimpleNamespace(**vars(time) | {"monotonic": clock}))
    assert not run_parts(parts, 100.0, "sleeps")
    own, outcome = lines(parts)
    assert own["outcome"] == "said"
    assert outcome["outcome"] == "overran"
    assert re.search(r"ended after 1\d\d s", outcome["error"])
    assert has_ended(int((parts / "child").read_text()))


def test_a_part_that_raises_leaves_the_others_alone(parts):
    assert not run_parts(parts, 60.0, "raises", "well")
    found = {record["part"]: record for record in lines(parts)}
    assert found["raises"]["outcome"] == "failed"
    assert "KeyError: 'no such thing'" in found["raises"]["error"]
    assert found["well"]["outcome"] == "ran"
    assert found["own"]["outcome"] == "said"


def test_what_a_stage_leaves_over_goes_to_the_next_and_who_has_none_says_so(parts, monkeypatch):
    given = []

    def run(stage, order, allowed, journal):
        given.append((stage.name, round(allowed)))
        return True

    monkeypatch.setattr(stages, "run", run)
    chosen = [Stage("speed", 3.0, 1.0, ()), Stage("members", 1.0, 1.0, ())]
    journal = results.Journal(parts, COMMON, time.time())
    assert stages.run_all(chosen, order_of(parts), 100.0, journal)
    assert given == [("speed", 75), ("members", 100)]
    assert not stages.run_all(chosen, order_of(parts), 5.0, journal)
    assert [r["no_time"] for r in lines(parts)] == ["5 s are left"] * 2


STOPPED = """
import sys
from benchmarks import accelerator_check as check
from benchmarks.on_device.stages import Part, Stage
check.STAGES["whole"] = Stage("whole", 1.0, 1.0, (Part("part_sleeps", "sleeps"),))
check.device = lambda environment: {
    "platform": "cpu", "kind": "cpu", "count": 1, "platforms": "cpu"}
sys.exit(check.main(["--out", sys.argv[1], "--rehearse", "--stages", "whole"]))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_whoever_stops_it_is_told_in_one_line_and_nothing_goes_on(parts, number, code):
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED, str(parts)], cwd=ROOT, stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while not (parts / results.NAME).is_file() or not lines(parts):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == code
    assert len(said.splitlines()) == 1
    assert str(parts) in said
    assert has_ended(int((parts / "child").read_text()))


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as caught:
        accelerator_check.main(["--out", str(tmp_path / "file")])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert str(tmp_path / "file") in said


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"platform": "cpu", "kind": "cpu", "count": 1, "platforms": "cpu"}, "no accelerator"),
        ("JAX does not start (boom)", "boom"),
    ],
)
def test_without_an_accelerator_it_says_so_and_names_the_rehearsal(
    found, words, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(accelerator_check, "device", lambda environment: found)
    assert accelerator_check.main(["--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert words in said
    assert "--rehearse" in said


def test_everything_needed_is_there_without_what_a_device_may_lack(tmp_path):
    """The modules of every part, with what the documentation says is not needed out of reach."""
    barred = ("tensorflow_datasets", "array_record", "pyarrow", "PIL", "matplotlib", "sklearn",
              "torch", "scipy", "pandas", "beartype", "pytest")  # fmt: skip
    modules = [p.module for stage in stages.STAGES.values() for p in stage.parts]
    modules += ["benchmarks.accelerator_check", "benchmarks.on_device.players",
                "benchmarks.programs", "benchmarks.on_device.probe",
                "jaxae.workflows.protocol", "jaxae.export.exporting", "jaxae.cli.train",
                "experiments.digits_conv"]  # fmt: skip
    code = f"""
import importlib, sys
class Barred:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {barred}:
            raise ModuleNotFoundError(f"{{name}} is out of reach", name=name)
sys.meta_path.insert(0, Barred())
for name in {modules}:
    importlib.import_module(name)
from benchmarks.on_device import cpu_run
print(cpu_run.synthetic(2)[0].shape)
"""
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(20, 28, 28, 1)\n"


def test_rows_are_made_where_there_are_no_digits(tmp_path, monkeypatch):
    from benchmarks.on_device import cpu_run
    from jaxae import data
    from jaxae.config import DataConfig

    monkeypatch.setattr(cpu_run, "find_spec", lambda name: None)
    name = cpu_run.rows_name(tmp_path)
    raw = data.raw(DataConfig(name=name))
    assert raw.x_train.shape[1:] == (28, 28, 1)
    assert sorted({*raw.train_class_id.tolist()}) == list(range(10))


class Fake:
    """A framework that answers at once: speeds by setting, one of which computes otherwise."""

    def __init__(self, wrong=""):
        self.asked, self.wrong = [], wrong

    def ask(self, do, name="", **order):
        if do == "make_all":
            return {"answers": [self._made(orders) for orders in order["orders"]]}
        self.asked.append((do, name))
        if do == "settings":
            return {"settings": ["graph_compile", "eager", "graph"]}
        if do == "gate":
            import numpy as np

            np.savez(order["out"], kernel=np.ones(3))
            return {"losses": {"loss": 2.0 if name == self.wrong else 1.0}}
        if do == "prepare" and name == "torch graph_compile":
            return {"unavailable": "no compiler"}
        rate = 10.0 * (len(name) + 1)
        made = {"precision": "default", "versions": {"jax": "9"}, "steps": 1}
        known = {"train": {"per_s": rate}, "score": {"per_s": 100 * rate}, "prepare": made}
        return known.get(do, {})

    def _made(self, orders):
        known = {"seconds": 1.0}
        for order in orders:
            known |= (found := self.ask(**order))
            if "unavailable" in found:
                return found
        return known


def test_competitors_are_checked_before_they_are_timed(parts):
    told = order_of(parts) | {"stage": "speed", "part": "speed", "until": time.time() + 600}
    players_ = {"jax": Fake(), "torch": Fake(wrong="torch graph"), "torch compiler": Fake()}
    sizes = speed.SMALL._replace(rounds=2, chunks=(8, 16))
    order = part.parse(told | {"models": ["ecg_dense"]})
    speed._models(order, sizes, players_, parts)
    records = results.read(parts)
    trained = {(r["framework"], r["setting"]): r for r in records if r["what"] == "train"}
    assert len(trained["jaxae", "as is"]["rounds"]) == 2
    assert trained["torch", "eager"]["median"] == 10.0 * (len("torch eager") + 1)
    assert "differs from jaxae" in trained["torch", "graph"]["error"]
    assert trained["torch", "graph_compile"]["unavailable"] == "no compiler"
    assert {setting for who, setting in trained if who == "jaxae"} == {*speed.VARIANTS}
    timed = [name for do, name in players_["torch"].asked if do == "train"]
    assert timed == ["torch eager"] * 2
    scored = [r for r in records if r["what"] == "score" and results.has_value(r)]
    assert {r["chunk"] for r in scored} <= {8, 16}


def test_what_there_is_no_time_for_is_said(parts):
    told = order_of(parts) | {"stage": "speed", "part": "speed", "until": time.time() + 600}
    order = part.parse(told)
    attempts = part.Attempts(order._replace(clock=stages.Clock(time.time() + 3)), least=1.0)
    attempts.make(lambda: order.journal.write("tests", "a"), "tests", "a")
    attempts.make(lambda: 1 / 0, "agreement", "b")
    attempts._longest = 10.0  # as if something had taken so long
    attempts.make(lambda: 1 / 0, "agreement", "c", quantity="losses")
    _, failed, late = lines(parts)
    assert failed["error"] == "ZeroDivisionError: division by zero"
    assert late["no_time"].endswith("s are left")
    assert late["quantity"] == "losses"


def test_a_framework_that_dies_or_cannot_is_an_answer():
    child = players._Child()
    found = players.answer(child, {"do": "train", "name": "nobody", "seconds": 1.0})
    assert found["error"].startswith("KeyError")
    unavailable = type("Unavailable", (Exception,), {})
    child.forget = lambda: (_ for _ in ()).throw(unavailable("not on this device"))
    assert players.answer(child, {"do": "forget"}) == {"unavailable": "not on this device"}


TESTS = """
import pytest, time
def test_a(): pass
def test_b(): assert False
def test_c(): pytest.skip("not here")
@pytest.fixture
def broken(): raise OSError
def test_d(broken): pass
def test_e(): time.sleep({})
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seconds", "code", "side_by_side"),
    [
        (0, 1, ()),
        (0, 1, ("-n", "2")),
        (600, None, ()),
        (600, None, ("-n", "2")),
    ],
)
def test_tests_are_counted_however_they_end(tmp_path, seconds, code, side_by_side, monkeypatch):
    class Stopped(subprocess.Popen):
        """Its time is up when all tests but the last have ended."""

        def wait(self, timeout=None):
            while timeout and seconds and (not said.is_file() or said.read_text().count("\n") < 4):
                time.sleep(0.05)
            return super().wait(0.1 if timeout and seconds else timeout)

    monkeypatch.setattr(marked_tests.subprocess, "Popen", Stopped)
    tests, said = tmp_path / "test_slow.py", tmp_path / "said.txt"
    tests.write_text(TESTS.format(seconds))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-c", os.devnull,
               "-p", "benchmarks.on_device.outcomes", *side_by_side, str(tests)]  # fmt: skip
    assert marked_tests.run(command, 300.0, said) == code
    found = marked_tests.counts(said)
    assert (found["passed"], found["failed"], found["skipped"]) == (1 if seconds else 2, 2, 1)
    assert [name.rsplit("::")[-1] for name in sorted(found["names"])] == ["test_b", "test_d"]


def speeds(what, model, framework, setting, rounds, stage="speed", **more):
    found = results.speeds(rounds, "steps/s") | {"framework": framework, "at_s": 1.0}
    known = {"what": what, "model": model, "setting": setting, "precision": "default"}
    return COMMON | known | found | {"stage": stage} | more


def agreement(quantity, deviation, **more):
    return COMMON | {
        "stage": "equality", "what": "agreement", "model": "mnist_conv", "setting": "as is",
        "precision": "highest", "at_s": 1.0, "quantity": quantity, "deviation": deviation, **more,
    }  # fmt: skip


def findings(models=accelerator_check.MODELS):
    """What a device might give."""
    found = []
    for model in models:
        for i, setting in enumerate(("as is", "plain", "graphs", "graphs, unroll 4")):
            rate = 1000.0 * (i + 1)
            found.append(speeds("train", model, "jaxae", setting, [rate, 1.1 * rate, 0.9 * rate]))
            found.append(speeds("score", model, "jaxae", setting, [1e6, 1.2e6, 1.1e6]))
        for setting, rate in (("eager", 500.0), ("compile", 9000.0), ("graph", 2000.0)):
            found.append(speeds("train", model, "torch", setting, [rate, rate, rate]))
            found.append(speeds("score", model, "torch", setting, [5e5, 5e5, 5e5]))
        found.append(speeds("train", model, "flax", "jitted step", [800.0] * 3))
    for model in ("fmnist_dense", "mnist_conv"):
        stage = {"stage": "members"}
        found.append(speeds("grid", model, "jaxae", "one program", [5e4], members=50, **stage))
        found.append(speeds("loop", model, "jaxae", "one after another", [2e3], **stage))
        found.append(speeds("loop", model, "torch", "graph", [4e3], **stage))
        for x in (1, 4, 16, 64, 256):
            found.append(speeds("ensemble", model, "jaxae", "as is", [1e3 * x], x=x, **stage))
            found.append(speeds("batch", model, "jaxae", "as is", [1e3 / x], x=32 * x, **stage))
    found.append(agreement("losses", 2e-7, allowed=1e-5, ok=True))
    found.append(agreement("score mse", 3e-4, allowed=1e-5, ok=False))
    found.append(COMMON | {"stage": "whole", "what": "run", "model": "dense", "at_s": 9.0,
                           "setting": "nothing compiled before", "precision": "default",
                           "seconds": 12.3, "code": 0, "members": 10})  # fmt: skip
    found += [
        COMMON | {"what": "train", "model": f"m{i}", "setting": "graph", "precision": "default",
                  "framework": "torch", "at_s": 2.0, "error": "RuntimeError: " + "x" * 300}
        for i in range(20)
    ]  # fmt: skip
    late = {"what": "train", "model": "m99", "setting": "compile", "precision": "default",
            "framework": "torch", "at_s": 2.0, "no_time": "3 s are left"}  # fmt: skip
    return [*found, COMMON | late]


def test_the_table_fits_a_screen_and_says_what_is_missing():
    text = table.text(findings())
    rows = text.splitlines()
    assert len(rows) <= 40
    assert max(map(len, rows)) <= 100
    (dense,) = [row.split() for row in rows if row.startswith("fmnist_dense  ")]
    assert dense == ["fmnist_dense", "step/s", "1000", "4000", "graphs,", "unroll", "4", "9000",
                     "compile", "500", "0.444"]  # fmt: skip
    assert "50 members in one program 50000 member-steps/s" in text
    assert "1 within what is allowed, 1 beyond mnist_conv score mse" in text
    assert "FAILED" in text
    assert rows[-1].startswith("and ")
    few = table.text([r for r in findings() if not r["model"].startswith("m9")][-3:])
    assert few.count("FAILED") == 3


def write(folder, records):
    folder.mkdir(exist_ok=True)
    (folder / results.NAME).write_text("".join(json.dumps(r) + "\n" for r in records))
    return folder


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A page of its own with both markers, and no findings kept."""
    path = tmp_path / "speed.md"
    begin, end = accelerator_report.BEGIN, accelerator_report.END
    path.write_text(f"# Speed\n\n{begin}\nold\n{end}\n\nafter\n")
    monkeypatch.setattr(accelerator_report, "PAGE", path)
    monkeypatch.setattr(accelerator_report, "KEPT", tmp_path / "kept")
    return path


def test_the_section_is_what_was_measured(page, tmp_path):
    assert accelerator_report.main([str(write(tmp_path / "check", findings()))]) == 0
    text = page.read_text()
    assert text.startswith("# Speed\n\n<!-- on a gpu: begin -->\n**NVIDIA H100 80GB HBM3**")
    assert text.endswith("<!-- on a gpu: end -->\n\nafter\n")
    assert "old" not in text
    # Against the fastest setting of all, compiled or not, and against eager.
    assert "| fmnist_dense | 4000 [3600, 4400] (graphs, unroll 4) | 1000 | 9000 (compile) " in text
    assert "| **0.44** [0.40, 0.49] | 8.00 | 5.00 |" in text
    assert "| mnist_conv | 50 | 5e+04 | 2000 | 4000 (graph) | 25.00 | 12.50 |" in text
    assert "* mnist_conv, score mse, as is: off by 3.0e-04, allowed 1e-05" in text
    assert "20 failed and 1 had no time" in text
    # What is kept gives the same page again, and a page that says something else is found out.
    assert accelerator_report.main(["--check"]) == 0
    page.write_text(text.replace("4000 [", "9999 ["))
    assert accelerator_report.main(["--check"]) == 1


def test_newer_findings_replace_those_of_their_kind(page, tmp_path):
    older = [speeds("train", "ecg_dense", "jaxae", "as is", [1.0])]
    other = older[0] | {"device": GPU | {"kind": "A100"}}
    for name, found in (("a", [*older, other]), ("b", findings())):
        assert accelerator_report.main([str(write(tmp_path / name, found))]) == 0
    kept = results.read(tmp_path / "kept")
    of_ecg = [r for r in kept if (r["what"], r["model"], r["setting"]) == ("train", "ecg_dense",
                                                                           "as is")]  # fmt: skip
    assert sorted((r["device"]["kind"], r["median"]) for r in of_ecg) == [
        ("A100", 1.0), (GPU["kind"], 1000.0),
    ]  # fmt: skip
    assert "**A100**" in page.read_text()


def test_without_findings_the_section_says_that_nothing_was_measured(page):
    page.write_text(accelerator_report.written(page.read_text(), accelerator_report.section([])))
    assert "Nothing was measured on a GPU or TPU so far." in page.read_text()
    assert "benchmarks.accelerator_check" in page.read_text()
    assert accelerator_report.main(["--check"]) == 0


GOOD = speeds("train", "ecg_dense", "jaxae", "as is", [1.0])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2 is not valid JSON"),
        ("[]", "line 2 is not a JSON object"),
        (GOOD | {"schema": 99}, "line 2: schema is 99; this version reads 1"),
        (GOOD | {"model": None}, "line 2: model is None, not of type str"),
        (GOOD | {"what": "guess"}, "line 2: what is 'guess'"),
        (GOOD | {"device": {"platform": "gpu"}}, "line 2: device.kind is None"),
        (GOOD | {"rounds": [0.0]}, "line 2: rounds are [0.0]; they must be speeds above zero"),
        (GOOD | {"median": "fast"}, "line 2: median is 'fast', not of type number"),
        (agreement("losses", 1.0, ok=True), "line 2: allowed is None, not of type number"),
        (GOOD | {"rehearsal": True}, "a rehearsal"),
        (GOOD | {"device": {"platform": "cpu", "kind": "cpu"}}, "device.platform is 'cpu'"),
    ],
)
def test_what_is_no_finding_of_an_accelerator_is_refused(line, words, page, tmp_path, capsys):
    folder = write(tmp_path / "check", [GOOD])
    with (folder / results.NAME).open("a") as file:
        file.write((line if isinstance(line, str) else json.dumps(line)) + "\n")
    before = page.read_text()
    assert accelerator_report.main([str(folder)]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert str(folder / results.NAME) in said
    assert words in said
    assert page.read_text() == before
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("missing", ["nowhere", "empty"])
def test_a_folder_without_findings_is_named(missing, page, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / results.NAME).write_text("")
    assert accelerator_report.main([str(tmp_path / missing)]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert str(tmp_path / missing / results.NAME) in said


def test_what_is_no_number_survives_the_file(tmp_path):
    journal = results.Journal(tmp_path, COMMON, time.time())
    journal.write("agreement", "m", quantity="losses", deviation=float("nan"))
    (found,) = results.read(tmp_path)
    assert found["deviation"] == "nan"
    assert "losses" in table.text([found | {"allowed": 1e-5, "ok": False}])


def test_the_page_says_what_the_kept_findings_give():
    assert accelerator_report.main(["--check"]) == 0


@pytest.mark.slow
@pytest.mark.thorough
def test_the_rehearsal_goes_through_every_stage(tmp_path):
    """With time to spare: by itself a rehearsal ends within five minutes, whatever it has."""
    assert accelerator_check._REHEARSAL_S < 300
    command = [sys.executable, "-m", "benchmarks.accelerator_check", "--rehearse"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path), "--budget", "900"], cwd=ROOT, capture_output=True,
        text=True, check=False, timeout=960,
    )  # fmt: skip
    found = results.read(tmp_path)
    assert [r for r in found if "error" in r] == []
    assert done.returncode == 0, done.stdout + done.stderr
    assert {r["stage"] for r in found} == {*stages.STAGES}
    held = {r["what"] for r in found if results.has_value(r)}
    assert {"train", "score", "prepare", "grid", "loop", "batch", "ensemble", "run", "agreement",
            "verified", "tests", "stage"} <= held  # fmt: skip
    # On one machine everything agrees.
    assert [r for r in found if r.get("ok") is False] == []
    assert "one-vs-rest, 10 members, start to report" in done.stdout
    assert len(done.stdout.splitlines()) < 60
