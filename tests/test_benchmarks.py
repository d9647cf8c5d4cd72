"""The benchmarks measure what they say: checked before timed, told apart, and never rotten."""

import dataclasses
import json
from importlib.util import find_spec

import numpy as np
import pytest

from benchmarks import (
    accelerators,
    cases,
    compare,
    cost_model,
    programs,
    records,
    saving,
    scaling,
    startup,
    throughput,
    together,
    tune,
    whole_runs,
)
from benchmarks.workers import Worker
from jaxae.devices import tuning


def record(framework, setting, steps, scored=100.0, model="ecg_dense", **extra):
    rounds = steps if isinstance(steps, list) else [steps]
    speeds, chunks = throughput.summary(rounds), {"64": scored / 2, "512": scored}
    return {
        "schema": records.SCHEMA, "model": model, "dtype": "float32", "batch": 8,
        "framework": framework,
        "setting": setting, "train_steps_per_s": speeds,
        "score_per_s": {k: throughput.summary([v] * len(rounds)) for k, v in chunks.items()},
        "versions": {framework: "1"}, "machine": throughput.machine(), **extra,
    }  # fmt: skip


RECORDS = [
    record("jaxae", "default", 120.0, devices=1),
    record("jaxae", "2 devices", 200.0, devices=2),
    record("flax", "jitted step", 30.0),
    record("torch", "eager", 20.0, threads=2),
    record("torch", "eager", 25.0, threads=1),
    record("torch", "compile", 60.0, threads=1, scored=400.0),
    record("keras", "function", 40.0),
    record("keras", "fit", 10.0),
]


def test_ratios_are_against_the_fastest_setting_of_any_peer():
    row = compare.compare(RECORDS, compare.training)
    found = {name: ratio.middle for name, ratio in compare.ratios(row, compare.training).items()}
    assert found == {"peer": 2.0, "flax": 4.0, "fit": 12.0, "eager": 6.0}
    row = compare.compare(RECORDS, compare.scoring)
    assert compare.ratios(row, compare.scoring)["peer"] == (0.25, 0.25, 0.25)


def test_a_ratio_is_that_of_the_rounds_and_its_interval_holds_the_truth():
    generator = np.random.default_rng(0)
    machine = np.exp(generator.normal(0, 1, 400).reshape(20, 20))  # what hits both alike
    own = 1.5 * np.exp(generator.normal(0, 0.05, (20, 20)))
    found = [records.paired(list(m * o), list(m)) for m, o in zip(machine, own, strict=True)]
    assert sum(r.low <= 1.5 <= r.high for r in found) >= 16
    assert all(r.low <= r.middle <= r.high < 1.7 for r in found)
    with pytest.raises(ValueError, match="3 rounds and 2 cannot be paired"):
        records.paired([1.0, 1.0, 1.0], [1.0, 1.0])
    wide = records.apart(list(2 * machine[0]), list(machine[1]))
    assert wide.high / wide.low > 2, "between machines nothing is paired"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 1}, "schema is 1; this version reads 2"),
        ({"model": None}, "model is None, not of type str"),
        ({"train_steps_per_s": {"rounds": [0.0]}}, "speeds above zero"),
        ({"train_steps_per_s": {}}, "speeds above zero"),
    ],
)
def test_a_line_that_is_no_result_is_named(change, words, tmp_path, capsys):
    path = tmp_path / "r.jsonl"
    lines = [json.dumps(RECORDS[0]), json.dumps(RECORDS[1] | change)]
    path.write_text("\n".join(lines))
    with pytest.raises(SystemExit) as caught:
        compare.main([str(path)])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert f"{path}, line 2" in said
    assert words in said


def test_two_files_stand_beside_each_other(tmp_path, capsys):
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for path, times in zip(paths, (1.0, 3.0), strict=True):
        found = [record("jaxae", "default", [times * s for s in (9.0, 10.0, 11.0)])]
        path.write_text("".join(json.dumps(r) + "\n" for r in found))
    compare.main([str(path) for path in paths])
    assert "| ecg_dense | float32 | 10 | 30 | 3.00 [2." in capsys.readouterr().out


def test_what_is_near_the_peaks_is_told_apart():
    own = record("jaxae", "default", 100.0, flops_per_step=2e9, bytes_per_step=1e6, compile_s=1.0,
                 transfer_s=0.5, peak_mb=7.0, precision="highest", devices=1)  # fmt: skip
    own["machine"] = own["machine"] | {"peaks": {"flops_per_s": 1e12, "bytes_per_s": 2e8}}
    text = compare.roofline([own])
    assert "| ecg_dense | float32 | 2,000 | 1.0 | 0.20 | 0.50 | 1.0 | 500.0 | 10.00 | 7 |" in text
    assert compare.roofline(RECORDS) == "", "nothing is known of others"
    own["machine"]["peaks"]["highest_flops_per_s"] = 4e11  # of a GPU, where the first is of TF32
    assert "| 2,000 | 1.0 | 0.50 | 0.50 |" in compare.roofline([own])
    assert "| 2,000 | 1.0 | 0.20 | 0.50 |" in compare.roofline([own | {"precision": "default"}])


@pytest.mark.parametrize("given", ["newer", "=python", "newer= ", "newer=no-such-program -X dev"])
def test_an_environment_that_there_is_not_is_refused_before_anything_is_measured(given, capsys):
    with pytest.raises(SystemExit, match="2"):
        throughput.parse(["--python", given])
    assert given.split()[0].removeprefix("newer=") in capsys.readouterr().err


def found_on(platform: str, count: int = 1) -> dict[str, dict]:
    """What `throughput.devices` finds on such a machine."""
    ways = ["eager", "channels_last"] + ([] if platform == "cpu" else ["graph"])
    return {
        "jaxae": {"platform": platform, "count": count},
        "torch": {"platform": platform, "count": count, "settings": {"mnist_conv": ways,
                                                                     "ecg_dense": ways[:1]}},
    }  # fmt: skip


def listed(found: dict[str, dict], quick: bool = False) -> list[tuple]:
    specs = throughput.competitors("mnist_conv", "float32", 8, quick, {}, found)
    return [(s["framework"], s["setting"], s.get("threads", s.get("devices"))) for s in specs]


def test_every_competitor_can_run_where_it_is_started(monkeypatch):
    monkeypatch.setattr(throughput, "find_spec", lambda name: None)
    monkeypatch.setattr(throughput.os, "sched_getaffinity", lambda pid: set(range(4)),
                        raising=False)  # fmt: skip
    ours = [("jaxae", "default", 0), ("jaxae", "again", 0)]
    step = [("flax", "jitted step", None)]
    counts = [("jaxae", "1 devices", 1), ("jaxae", "2 devices", 2)]
    torch = [("torch", way, n) for way in ("eager", "channels_last") for n in (1, 4)]
    assert listed(found_on("cpu")) == ours + counts + step + torch
    assert listed(found_on("cpu"), quick=True) == ours + step + torch[:1]
    torch = [("torch", way, 1) for way in ("eager", "channels_last", "graph")]
    assert listed(found_on("gpu")) == ours + step + torch
    assert listed(found_on("gpu", 2)) == ours + counts + step + torch
    without = {"jaxae": found_on("gpu")["jaxae"]}
    assert listed(without) == ours + step


def test_accelerators_score_as_many_rows_at_a_time_as_jaxae_does_there():
    assert throughput.chunks_for(found_on("cpu")) == (32, 64, 128, 512)
    chunks = throughput.chunks_for(found_on("gpu"))
    assert tuning.chunk_rows(tuning.DENSE, "gpu", (28, 28, 1)) in chunks
    assert all(programs.SCORED % chunk == 0 for chunk in chunks)


def test_peaks_of_an_accelerator_are_known_at_both_precisions(monkeypatch):
    import jax

    on_cpu = programs.peaks(64, 1)
    assert on_cpu.keys() == {"flops_per_s", "bytes_per_s"}
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    found = programs.peaks(64, 1)
    assert found.keys() == on_cpu.keys() | {"highest_flops_per_s"}
    assert all(value > 0 for value in found.values())


def test_the_gate_and_scores_are_exact_off_the_cpu():
    from types import SimpleNamespace

    import jax

    for platform, stated in (("cpu", None), ("gpu", "highest")):
        with programs._exact(SimpleNamespace(platform=platform)):
            assert jax.config.jax_default_matmul_precision == stated
    with programs._products("default"):
        assert jax.config.jax_default_matmul_precision is None


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["jaxae", "flax"])
def test_a_program_says_in_which_precision_it_trains(framework):
    spec = {"model": "ecg_dense", "dtype": "float32", "batch": 8, "block": 2, "devices": 1}
    weights, make = programs.initial_weights(spec), programs.FRAMEWORKS[framework]
    assert make(spec, weights).precision == "default"
    stated = make(spec | {"precision": "highest"}, weights)
    assert stated.precision == "highest"
    stated.train(2)


@pytest.mark.slow
def test_a_dispatch_is_not_cut():
    spec = {"model": "ecg_dense", "dtype": "float32", "batch": 8, "block": 2, "devices": 1}
    program = programs.jaxae(spec, programs.initial_weights(spec))
    program.train(4)
    with pytest.raises(ValueError, match="3 steps are not a multiple of 2"):
        program.train(3)


@pytest.mark.slow
def test_devices_are_found_by_one_process_of_each_framework():
    found = throughput.devices({})
    assert found["jaxae"]["platform"] == "cpu"
    assert set(found) == {"jaxae"} | ({"torch"} if find_spec("torch") else set())
    if "torch" in found:
        assert found["torch"]["settings"].keys() == cases.CASES.keys()
        assert all("eager" in ways for ways in found["torch"]["settings"].values())


def test_an_environment_of_its_own_is_a_competitor_of_its_own():
    pythons = {"newer": "a python", "keras": "b python"}
    specs = throughput.competitors("ecg_dense", "float32", 8, True, pythons, found_on("cpu"))
    assert [s["python"] for s in specs if s["framework"] == "keras"] == ["b python"]
    (newer,) = [s for s in specs if s.get("environment") == "newer"]
    assert (newer["framework"], newer["python"]) == ("jaxae", "a python")
    there = record("jaxae", "default", 60.0, environment="newer", devices=1)
    row = compare.compare([*RECORDS, there], compare.training, ours="newer")
    assert compare.ratios(row, compare.training)["peer"].middle == 1.0
    row = compare.compare([*RECORDS, there], compare.training)
    assert compare.ratios(row, compare.training)["peer"].middle == 2.0


def test_best_is_the_fastest_device_count():
    row = compare.compare(RECORDS, compare.training, best=True)
    assert row["jaxae"]["setting"] == "2 devices"


def test_geometric_mean():
    assert compare.geometric_mean([1.0, 4.0]) == pytest.approx(2.0)


def test_table_and_plot(tmp_path):
    more = [dict(r, model="fmnist_dense") for r in RECORDS]
    text = compare.table(RECORDS + more)
    assert "**2.00**" in text
    assert "torch compile, 1 thr." in text
    assert "geometric mean" in text
    compare.plot(RECORDS + more, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_the_last_result_of_a_competitor_counts(tmp_path):
    path = tmp_path / "r.jsonl"
    later = RECORDS[0] | {"peak_mb": 1.0}
    path.write_text("".join(json.dumps(r) + "\n" for r in [*RECORDS, later]))
    found = records.read(path)
    assert len(found) == len(RECORDS)
    assert found[0]["peak_mb"] == 1.0


def test_the_gate_refuses_a_competitor_that_computes_something_else():
    ours = ({"loss": 1.0}, {"a/kernel": np.array([1.0, 2.0])})
    spec = {"framework": "torch", "setting": "eager", "model": "ecg_dense", "dtype": "float32"}
    assert throughput.check(ours, ours, spec) == {"loss": 0.0, "gradients": 0.0}
    for other in (
        ({"loss": 1.001}, ours[1]),
        (ours[0], {"a/kernel": np.array([1.0, 2.01])}),
        (ours[0], {"a/kernel": np.array([1.0, np.nan])}),
    ):
        with pytest.raises(RuntimeError, match="differs from jaxae"):
            throughput.check(ours, other, spec)


def test_compile_time_is_what_the_first_call_takes_beyond_its_steps():
    raw = record("torch", "eager", 1.0, first_call_s=3.0, first_call_steps=10)
    raw |= {"train_steps_per_s": [10.0, 20.0, 5.0], "score_per_s": {"64": [1.0]}}
    done = throughput.finish(raw, batch=4)
    assert done["compile_s"] == pytest.approx(2.0)
    assert done["train_examples_per_s"] == pytest.approx(40.0)


def test_every_case_names_its_experiments_parameters():
    learners = pytest.importorskip("jaxae.methods.learners")
    import jax

    for case in cases.CASES.values():
        learner = learners.build(cases.config(case.name), case.shape, axis=None)
        row = jax.ShapeDtypeStruct((1, *case.shape), np.float32)
        params = jax.eval_shape(learner.init, jax.random.key(0), row).params
        flat = cases.traverse_util.flatten_dict(params, sep="/")
        assert {k.rsplit("/", 1)[0] for k in flat} == set(case.layers), case.name


@pytest.mark.slow
def test_weights_of_one_model_start_an_ensemble():
    spec = {"model": "ecg_dense", "dtype": "float32", "batch": 8, "block": 2, "devices": 2}
    weights = programs.initial_weights(spec)
    for name, value in programs.initial_weights(spec | {"ensemble": 3}).items():
        np.testing.assert_array_equal(value, weights[name])
    x = cases.rows(cases.CASES["ecg_dense"], 8)
    ours, theirs = (
        programs.jaxae(spec | {"ensemble": size}, weights).gradients(x) for size in (1, 3)
    )
    assert throughput.check(ours, theirs, spec)["gradients"] < 1e-5


@pytest.mark.slow
def test_an_ensemble_trains_and_scores():
    spec = {"model": "ecg_dense", "dtype": "float32", "batch": 8, "block": 2, "devices": 2}
    spec |= {"ensemble": 3}
    program = programs.jaxae(spec, programs.initial_weights(spec))
    assert (program.steps, program.devices) == (2, 2)
    program.train(2)
    program.train(2)
    program.score(64)


def test_more_devices_than_there_are_make_a_competitor_unavailable():
    spec = {"model": "ecg_dense", "dtype": "float32", "devices": 1000}
    with pytest.raises(programs.Unavailable, match="devices"):
        programs.jaxae(spec, {})


def test_config_changes_only_what_is_named():
    cfg = cases.config("ecg_dense")
    changed = cases.config("ecg_dense", **{"train.batch_size": 7})
    assert changed.train.batch_size == 7
    same = dataclasses.replace(changed, train=cfg.train)
    assert same == cfg


def test_a_dead_worker_is_an_error_not_a_wait():
    with (
        Worker({"framework": "none"}) as worker,
        pytest.raises(RuntimeError, match="ended with"),
    ):
        worker.ask(do="nothing")


@pytest.mark.slow
def test_throughput_quick(tmp_path, capsys):
    out = tmp_path / "results" / "quick.jsonl"
    throughput.main(["--quick", "--models", "ecg_dense", "--out", str(out)])
    records = compare.read(out)
    expected = {"jaxae", "flax"}
    expected |= {name for name, module in (("torch", "torch"), ("keras", "tensorflow"))
                 if find_spec(module)}  # fmt: skip
    assert {r["framework"] for r in records} == expected
    for r in records:
        assert r["train_steps_per_s"]["median"] > 0
        assert compare.scoring(r)["median"] > 0
        assert r["peak_mb"] > 10
    assert "steps/s" in capsys.readouterr().out


def test_flax_is_compared_where_it_ran():
    rates = [
        ("jaxae", "jaxae", 8, [3.0, 1.0, 2.0]),
        ("jaxae", "one device", 8, [9.0]),
        ("jaxae", "jaxae", 32, [6.0]),
        ("flax", "plain Flax", 8, [0.5]),
    ]
    names = ("framework", "setting", "x", "examples_per_s")
    found = [dict(zip(names, r, strict=True)) for r in rates]
    assert scaling.against_flax(found) == {8: 4.0}


def test_efficiency_is_one_where_devices_add_up():
    rates = {("same batch", 1): 10.0, ("same batch", 2): 15.0, ("batch each", 1): 10.0,
             ("batch each", 2): 20.0, ("lonely", 2): 1.0}  # fmt: skip
    found = [{"setting": s, "x": n, "examples_per_s": [r]} for (s, n), r in rates.items()]
    middle = {key: share.middle for key, share in scaling.efficiencies(found).items()}
    assert middle == {("same batch", 2): 0.75, ("batch each", 2): 1.0}


def test_the_constants_of_a_known_cost_are_found():
    batches = [1, 8, 32, 128]
    found = cost_model.fit(batches, [3e-4 + 2e-6 * b for b in batches])
    assert found == pytest.approx((3e-4, 2e-6, 0), abs=1e-9)
    assert cost_model.fit(batches, [b * 1e-6 for b in batches]).fixed == pytest.approx(0, abs=1e-9)
    assert cost_model.fit([1, 2], [2.0, 1.0]).row == 0.0, "nothing is negative"


def test_what_was_measured_is_fitted_by_model():
    def point(study, setting, x, seconds, **more):
        return {"study": study, "setting": setting, "x": x, "batch": 32, "framework": "jaxae",
                "model": "ecg_dense", **more} | {
                    "examples_per_s": [more.get("batch", 32) * more.get("ensemble", 1) / seconds]
                }  # fmt: skip

    records = [point("batch", "one device", b, 1e-4 + 1e-6 * b, batch=b) for b in (8, 512)]
    records += [point("devices", "same batch", 2, 5e-4, batch=512)]
    records += [point("ensemble", "jaxae", n, 1e-4 * n, ensemble=n) for n in (1, 2)]
    lines = cost_model.measured(records, "ecg_dense")
    assert lines[0].startswith("one device: 100 us + 1.00 us a row (within 0% from 8 to 512")
    assert lines[1] == "2 devices: reducing takes 144 us of 500"
    assert lines[2] == "members: 0 us + 100 us each (within 0%)"


def test_a_step_costs_its_kernels_its_work_and_its_reduction():
    target = cost_model.Target("H100", 4, 1, 1e12, 1e9, 1e8, 1e-6, 1e-5)
    step = cost_model.Step(3e9, accelerators.Body(10, 2_000_000, 1_000_000, 2))
    assert cost_model.seconds(step, target, 1) == pytest.approx(10e-6 + 1e-2)
    crossing = 2e-5 + 2 * 3 / 4 * 1e-2
    assert cost_model.seconds(step, target, 4) == pytest.approx(10e-6 + 1e-2 + crossing)


def test_choices_are_taken_that_gain_and_cost_nothing():
    gain, cost, even = (records.Ratio(m, m - 0.02, m + 0.02) for m in (1.2, 0.9, 1.005))
    best = records.Ratio(1.4, 1.3, 1.5)
    found = {
        "a": {'{"width": 512}': gain, '{"width": 256}': best, '{"in_place": false}': best,
              '{"part": 0}': even},
        "b": {'{"width": 512}': even, '{"width": 256}': even, '{"in_place": false}': cost,
              '{"part": 0}': even, '{"share": 1}': best},
    }  # fmt: skip
    assert tune.taken(found) == {"width": 256}
    for method in ("dense", "conv", "alocc"):
        own = tune._own(method)
        variants = tune.variants(method)
        assert all(own._replace(**variant) != own for variant in variants)
        concerned = {name for variant in variants for name in variant}
        on_accelerator = tune.variants(method, "gpu")
        assert all(own._replace(**variant) != own for variant in on_accelerator)
        assert {name for variant in on_accelerator for name in variant} == {"graphs", "unroll"}
        assert {"part", "library"} & concerned == {
            "dense": set(), "conv": {"part", "library"}, "alocc": {"library"}
        }[method]  # fmt: skip


def test_a_choice_of_scoring_needs_no_training_and_no_process_of_its_own(monkeypatch):
    asked = []

    class Recorded:
        def __init__(self, spec):
            self.tuning = spec["tuning"]
            asked.append(("process", self.tuning))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def ask(self, **order):
            if order["do"] in ("train", "score"):
                asked.append((order["do"], order.get("chunk"), self.tuning))
            return {"done": order.get("chunk", 1), "seconds": 1.0}

    monkeypatch.setattr(tune, "Worker", Recorded)
    found = tune.measure("mnist_conv", [{"chunk": 128}, {"library": True}, {"width": 128}], 3, 0.1)
    assert [asked.count(("process", t)) for t in ({}, {"library": True}, {"width": 128})] == [1] * 3
    assert len([order for order in asked if order[0] == "process"]) == 3
    for order in [("train", None, {}), ("score", 64, {}), ("score", 128, {}),
                  ("score", 64, {"library": True}), ("train", None, {"width": 128})]:  # fmt: skip
        assert asked.count(order) == 3
    assert {name: ratio.middle for name, ratio in found.items()} == {
        '{"chunk": 128}': 2.0, '{"library": true}': 1.0, '{"width": 128}': 1.0
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.thorough
def test_a_machine_is_tuned(tmp_path, monkeypatch, capsys):
    tried = {"share": (1, 256), "ynnpack": (True,), "chunk": (32, 128)}
    monkeypatch.setattr(tune, "CHOICES", tried)
    out = tmp_path / "tuning.json"
    tune.main(f"--models ecg_dense --rounds 2 --seconds 0.1 --out {out}".split())
    printed = capsys.readouterr().out
    assert "dense: faster with" in printed or "dense: no choice is faster" in printed
    for variant in ('{"share": 1}', '{"ynnpack": true}', '{"chunk": 32}'):
        assert f"  {variant}" in printed
    assert '"chunk": 128' not in printed  # its own
    monkeypatch.setenv("JAXAE_TUNING", str(out))
    tuning.from_table("dense", tuning.DENSE)


HLO = """HloModule m

%fused (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  ROOT %a = f32[4]{0} add(%p, %p)
}

%step (s: (f32[4], bf16[2,3])) -> (f32[4], bf16[2,3]) {
  %s = (f32[4]{0}, bf16[2,3]{1,0}) parameter(0)
  %x = f32[4]{0} get-tuple-element(%s), index=0
  %y = bf16[2,3]{1,0} get-tuple-element(%s), index=1
  %f = f32[4]{0} fusion(%x), kind=kLoop, calls=%fused
  %start = f32[4]{0} all-reduce-start(%f), to_apply=%add
  %done = f32[4]{0} all-reduce-done(%start)
  ROOT %t = (f32[4]{0}, bf16[2,3]{1,0}) tuple(%done, %y)
}

ENTRY %main (s: (f32[4], bf16[2,3])) -> f32[4] {
  %s = (f32[4]{0}, bf16[2,3]{1,0}) parameter(0)
  %w = (f32[4]{0}, bf16[2,3]{1,0}) while(%s), condition=%c, body=%step
  ROOT %r = f32[4]{0} get-tuple-element(%w), index=0
}
"""


def test_the_loop_of_a_program_is_read():
    assert accelerators.body(HLO) == accelerators.Body(2, 4 * 16, 16, 1)


@pytest.mark.slow
@pytest.mark.thorough
def test_scaling_quick(tmp_path):
    out, plot = tmp_path / "s.jsonl", tmp_path / "s.png"
    scaling.main(
        ["--quick", "--rounds", "1", "--seconds", "0.05", "--models", "ecg_dense", "--studies",
         "devices", "ensemble", "--out", str(out), "--plot", str(plot)]
    )  # fmt: skip
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert {(r["study"], r["setting"], r["x"]) for r in found} >= {
        ("devices", "same batch", 1), ("devices", "batch each", 1), ("ensemble", "jaxae", 2),
    }  # fmt: skip
    assert all(r["examples_per_s"][0] > 0 for r in found)
    assert plot.exists()


@pytest.mark.slow
@pytest.mark.thorough
def test_saving_is_off_the_critical_path(capsys):
    found = saving.measure("fmnist_one_class", epochs=6, rounds=3, seconds=0.1)
    # The least of each: what else a machine does meanwhile only adds to it.
    critical = {kind: min(c.critical for c in costs) for kind, costs in found.items()}
    assert critical["none"] < critical["asynchronous"] < 0.9 * critical["waited for"]
    saving.main(["--models", "ecg_dense", "--epochs", "2", "--rounds", "1", "--seconds", "0.1"])
    assert "| ecg_dense | asynchronous | " in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.thorough
def test_startup(tmp_path):
    startup.main(["--models", "ecg_dense", "--out", str(tmp_path / "s.jsonl")])
    found = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    cold, warm = (r for r in found if "cache" in r)
    assert (cold["cache"], warm["cache"]) == ("cold", "warm")


def test_whole_runs_are_compared_by_their_seconds():
    run = {"model": "mnist_alocc", "steps": 10, "steps_per_s": [5.0, 10.0], "compile_s": 2.0,
           "jaxae_s": 8.0, "original_s": 16.0, "framework": "keras", "setting": "fit"}  # fmt: skip
    text = whole_runs.table([run, run | {"model": "ecg_dense", "original_s": 4.0}])
    assert "| mnist_alocc | 8 s | 5 s | 16 s (keras fit) | **2.00** | 62 s" in text
    assert "| geometric mean | | | | **1.00** |" in text


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.skipif(not find_spec("tensorflow"), reason="needs the bench extra: tensorflow")
def test_a_whole_run_and_its_original(tmp_path, data_dir):
    out = tmp_path / "w.jsonl"
    whole_runs.main(["--models", "ecg_dense", "--data-dir", str(data_dir), "--out", str(out)])
    (found,) = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(found["steps_per_s"]) == found["epochs"] == 20
    assert found["jaxae_s"] > found["compile_s"] > 0
    assert found["original_s"] > 1


@pytest.mark.slow
def test_members_together_and_one_after_another_are_measured(monkeypatch, capsys):
    monkeypatch.setitem(together.EQUAL, "digits_conv", ((8, 8, 1), 64))
    together.main(["--cases", "digits_conv", "--rounds", "2", "--seconds", "0"])
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines()[2:-1]]
    assert [row[2].strip() for row in rows] == ["ensemble", "grid"]
    assert all(float(row[4].split()[0]) > 0 for row in rows)
