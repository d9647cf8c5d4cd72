"""Pages of run folders, as a browser shows them."""

import html.parser
import json
import re
import shutil
import urllib.parse
from xml.etree import ElementTree

import jax.numpy as jnp
import numpy as np
import pytest
from probes import tiny, write_npz

from jaxae.cli import main as cli
from jaxae.data.arrayfiles import read_npz
from jaxae.detectors import evaluation, pixels
from jaxae.errors import UserError
from jaxae.reports import by_step, listing, pages
from jaxae.reports.pages import frame
from jaxae.reports.pages import run as single
from jaxae.reports.pages import series as stepped
from jaxae.reports.plots import series as drawing
from jaxae.stats import conformal, intervals, metrics, ranges
from jaxae.storage import manifest
from jaxae.workflows import experiment

XLINK = "http://www.w3.org/1999/xlink"
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("pages")
    data = write_npz(root / "x.npz")
    for seed in (0, 1):
        changes = {"name": "<b>&tiny", "studies": ("severity",)} if not seed else {}
        cfg = tiny(data__name=f"npz:{data}", seed=seed, run_dir=str(root / f"run{seed}"), **changes)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pixels, "_LARGE", 8 if not seed else 9)  # these images have 8 pixels
            experiment.run(cfg)
    pages.write(root / "run0")
    return root


class Checked(html.parser.HTMLParser):
    """Every element is closed where it must be, and nothing asks the network for anything."""

    EMPTY = frozenset({"meta", "link", "img", "input", "br"})

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(text):
    found = Checked()
    found.feed(text)
    assert not found.open
    return found.seen


def test_a_page_is_whole_and_asks_the_network_for_nothing(folder):
    text = (folder / "run0/report.html").read_text()
    seen = parsed(text)
    for _, attrs in seen:
        for name in ("src", "href"):
            assert attrs.get(name, "data:").startswith("data:")
    outside_images = re.sub(r'<pre.*?</pre>|src="data:[^"]*"', "", text, flags=re.DOTALL)
    assert "http" not in outside_images
    assert "&lt;b&gt;&amp;tiny" in text
    assert "<b>&tiny" not in text
    images = [attrs for tag, attrs in seen if tag == "img"]
    assert images
    for attrs in images:
        assert attrs["src"].startswith("data:image/svg+xml,")
        drawing = urllib.parse.unquote(attrs["src"].partition(",")[2])
        links = [
            element.get(f"{{{XLINK}}}href", "#")
            for element in ElementTree.fromstring(drawing).iter()
        ]
        assert all(link.startswith(("#", "data:")) for link in links)
    assert all(attrs["alt"] for attrs in images)
    assert all(attrs["aria-label"] for tag, attrs in seen if tag == "svg")
    ids = [attrs["id"] for _, attrs in seen if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_a_page_has_the_reports_numbers(folder):
    text = (folder / "run0/report.html").read_text()
    report = json.loads((folder / "run0/report.json").read_text())
    assert f"<b>{report['auroc']:.4f}</b>" in text
    assert "95 %: [{:.4f}, {:.4f}]".format(*report["auroc_interval"]) in text
    assert not (folder / "run1/arrays/heatmaps.npz").exists()  # of small images, unless asked
    for title in (
        "Where images are anomalous",
        "most anomalous",
        "borderline",
        "Severity of corruptions",
        "Training",
        "Classes",
    ):
        assert title in text


def test_the_slider_holds_the_runs_threshold_and_both_ends(folder):
    found = single.read(folder / "run0")
    cuts, own = single.cuts(found)
    assert (np.diff(cuts) > 0).all()
    assert cuts[own] == np.float32(found.report["threshold"])
    assert cuts[0] < found.score.min()
    assert cuts[-1] >= found.score.max()
    many = found._replace(score=np.random.default_rng(0).random(9999, np.float32))
    assert len(single.cuts(many)[0]) <= 2002


def at(cut, stored, calibration):
    """What the library says of a threshold."""
    flagged, y = stored["test"] > cut, stored["test_y"]
    counts = metrics.confusion(flagged, y)
    tp, fp, tn, fn = (
        int(np.sum(a)) for a in (flagged & y, flagged & ~y, ~flagged & ~y, ~flagged & y)
    )
    above = int(np.sum(calibration > cut))
    return {"tp": tp, "fp": fp, "tn": tn, "fn": fn, "precision": float(counts.precision),
            "recall": float(counts.recall), "f1": float(counts.f1),
            "accuracy": float(counts.accuracy), "fpr": fp / max(fp + tn, 1),
            "alpha": (above + 1) / (len(calibration) + 1)}  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    """A headless browser; these tests are skipped, loudly, without one."""
    if not BROWSER or not DRIVER:
        pytest.skip("no chromium and chromedriver: install Debian's chromium and chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver")
    exceptions = pytest.importorskip("selenium.common.exceptions")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
                 "disable-background-networking", "disable-component-update", "disable-sync",
                 "disable-dev-shm-usage", "window-size=400,900"):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    try:
        started = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    except exceptions.WebDriverException as error:
        pytest.skip(f"chromium does not start here: {error.msg}")
    yield started
    started.quit()


def shown(browser):
    outputs = browser.find_elements("tag name", "output")
    return {
        field.get_attribute("id"): float(field.get_attribute("data-exact")) for field in outputs
    }


@pytest.mark.slow
def test_the_slider_says_what_the_library_says(folder, browser):
    browser.get((folder / "run0/report.html").as_uri())
    stored = read_npz(folder / "run0/scores.npz")
    calibration = single.read(folder / "run0").calibration
    cuts, own = single.cuts(single.read(folder / "run0"))
    slider = browser.find_element("id", "threshold")
    assert int(slider.get_attribute("value")) == own
    report = json.loads((folder / "run0/report.json").read_text())
    first = shown(browser)
    for name in ("precision", "recall", "f1", "accuracy", "fpr"):
        assert first[name] == pytest.approx(report[name], abs=1e-6)
    move = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
    for position, cut in enumerate(cuts):
        browser.execute_script(move, slider, position)
        found = shown(browser)
        assert found.pop("cut") == float(cut)
        assert found == pytest.approx(at(cut, stored, calibration), abs=1e-6)
    browser.find_element("id", "own").click()
    assert shown(browser) == first
    slider.send_keys("\ue014")  # the right arrow
    assert shown(browser)["cut"] == float(cuts[own + 1])
    assert browser.get_log("browser") == []


def test_the_alpha_shown_is_that_of_the_conformal_rule(folder):
    calibration = np.sort(single.read(folder / "run0").calibration)
    n = len(calibration)
    for k in range(1, n + 1):
        state = conformal.fit(jnp.asarray(calibration), k / (n + 1))
        above = np.sum(calibration > np.float32(state["threshold"]))
        assert above + 1 == k


@pytest.mark.slow
@pytest.mark.parametrize("name", ["run0/report.html", "run0/comparison.html"])
def test_a_narrow_screen_scrolls_down_only_and_the_console_is_silent(name, folder, browser):
    cli.main(["report", str(folder / "run0"), "--against", str(folder / "run1")])
    browser.get((folder / name).as_uri())
    wide = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    scroll, client = browser.execute_script(wide)
    assert scroll <= client
    assert browser.get_log("browser") == []


def test_two_runs_and_a_grid_have_pages_too(folder, tmp_path, capsys):
    cli.main(["report", str(folder / "run0"), "--against", str(folder / "run1"),
              "--out", str(tmp_path / "a.html")])  # fmt: skip
    text = (tmp_path / "a.html").read_text()
    parsed(text)
    assert "may be chance" in text or "real" in text
    assert "Settings that differ" in text
    ends = {"auroc_interval": [0.8, 1.0], "auroc_std": 0.01}
    pca = {"auroc": 0.7, "classes": {"0": {"auroc": 0.7}, "1": {"auroc": 0.7}}}
    report = {"name": "grid", "auroc": 0.9, "auroc_interval": [0.85, 0.95],
              "baselines": {"pca": pca},
              "classes": {"0": {"auroc": 0.9, **ends}, "1": {"auroc": 0.91, **ends}}}  # fmt: skip
    (tmp_path / "report.json").write_text(json.dumps(report))
    cli.main(["report", str(tmp_path)])
    text = (tmp_path / "report.html").read_text()
    parsed(text)
    assert "class 1" in text
    assert "open it in a browser" in capsys.readouterr().out


def test_what_is_no_finished_run_is_one_line(folder, tmp_path, capsys):
    damaged = tmp_path / "damaged"
    shutil.copytree(folder / "run1", damaged)
    (damaged / "scores.npz").write_bytes(b"nothing")
    for args in ([str(tmp_path)], [str(damaged)], [str(folder / "run1"), "--out", "x.html"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(["report", *args])
        assert stop.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not (damaged / "report.html").exists()


@pytest.fixture
def edited(folder, tmp_path):
    """Makes a copy of a run without a manifest, as older versions left it, with other contents."""

    def edit(arrays, report):
        shutil.copytree(folder / "run1", tmp_path / "edited")
        for name in ("manifest.json", "arrays/cases.npz"):
            (tmp_path / "edited" / name).unlink()
        changed = json.loads((folder / "run1/report.json").read_text()) | report
        (tmp_path / "edited/report.json").write_text(json.dumps(changed))
        stored = read_npz(folder / "run1/scores.npz") | arrays
        np.savez(tmp_path / "edited/scores.npz", **stored)
        return tmp_path / "edited"

    return edit


NOT_FINITE = np.full(48, np.nan, np.float32)


@pytest.mark.parametrize(
    ("arrays", "report", "says"),
    [
        ({}, {"threshold": float("nan")}, "threshold is nan"),
        ({}, {"threshold": float("inf")}, "threshold is inf"),
        ({}, {"threshold": 1e300}, r"threshold is 1e\+300"),
        ({}, {"threshold": "2"}, "threshold is '2'"),
        ({}, {"auroc": "high"}, "auroc is 'high'"),
        ({}, {"auroc": 7}, "auroc is 7, not a share from 0 to 1"),
        ({}, {"auroc": True}, "auroc is True"),
        ({}, {"auroc": 0.123}, "auroc is 0.123, but .* by scores.npz beside it"),
        ({}, {"auroc_interval": 3}, "auroc_interval is 3"),
        ({}, {"f1_interval": [0.1, None]}, "f1_interval is"),
        ({}, {"f1_interval": [0.9, 0.1]}, "f1_interval is"),
        ({}, {"n_normal": -1}, "n_normal is -1, not a count"),
        ({}, {"n_anomaly": 13}, "n_anomaly is 13, but 24 by scores.npz beside it"),
        ({}, {"n_valid": 4000}, "n_valid is 4000, but"),
        ({}, {"warnings": "none"}, "warnings is 'none'"),
        ({}, {"name": ["a"]}, r"name is \['a'\], not a text"),
        ({}, {"labelled": "no"}, "labelled is 'no'"),
        ({}, {"classes": 3}, "classes is 3"),
        ({}, {"classes": {"0": {"auroc": -1}}}, "classes 0 auroc is -1"),
        ({"test": NOT_FINITE}, {}, "test is nan in row 0"),
        ({"train": -np.inf * np.ones(9)}, {}, "train is -inf in row 0"),
        ({"test": np.full(48, 1e300)}, {}, "test is 1e[+]300 in row 0"),
        ({"test": np.array(["a"] * 48)}, {}, "test is <U1"),
        ({"p_value": np.full(48, 1.5)}, {}, "p_value is 1.5 in row 0"),
        ({"test": np.zeros((48, 1))}, {}, "of shapes"),
        ({"test_y": np.zeros(3, bool)}, {}, "of shapes"),
        ({"test_row_digest": np.zeros(3, np.uint64)}, {}, "of shapes"),
        ({"test_is_anomaly": np.zeros(48)}, {}, "test_is_anomaly is float64"),
        ({name: np.zeros(0, kind) for name, kind in zip(
            ("test", "test_y", "test_is_anomaly", "test_class_id", "test_row_digest"),
            ("f", bool, bool, int, np.uint64), strict=True)}, {}, "test has no rows"),
    ],
)  # fmt: skip
def test_what_no_run_holds_is_one_line(arrays, report, says, edited, capsys):
    run = edited(arrays, report)
    with pytest.raises(SystemExit) as stop:
        cli.main(["report", str(run)])
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert re.search(says, err)
    assert ("scores.npz" if arrays else "report.json") in err
    assert err.count("\n") == 1
    assert not (run / "report.html").exists()


@pytest.mark.parametrize("rows", ["one of each", "normals", "equal"])
def test_what_a_run_may_hold_has_a_page(rows, edited, folder):
    """Without an interval, without an AUROC, and without spread; names are no formulas."""
    stored = read_npz(folder / "run1/scores.npz")
    chosen = {"one of each": [0, -1], "normals": [0, 1, 2], "equal": [0, 1, 2, -3, -2, -1]}[rows]
    arrays = {name: stored[name][chosen] for name in stored if name.startswith("test")}
    if rows == "equal":
        arrays["test"] = np.full(6, 0.5, np.float32)
    judged = arrays["test"], arrays["test_y"], arrays["test_is_anomaly"]
    report = evaluation.evaluate(*judged) | intervals.report(*judged)
    names = {"name": "<i>$\\bad$", "warnings": ["<b>$x^$"]}
    text = pages.write(edited(arrays, report | names)).read_text()
    parsed(text)
    assert "<i>" not in text
    assert "&lt;i&gt;$\\bad$" in text
    auroc = "-" if report["auroc"] is None else f"{report['auroc']:.4f}"
    assert f"AUROC<b>{auroc}</b>" in text


def test_files_that_changed_since_the_run_ended_are_refused(folder, tmp_path):
    for name in ("scores.npz", "report.json", "config.json", "metrics.jsonl", "arrays/cases.npz"):
        run = tmp_path / name.replace("/", "-")
        shutil.copytree(folder / "run1", run)
        with (run / name).open("ab") as file:
            file.write(b"\n")
        with pytest.raises(UserError, match=rf"{name} has changed since the run ended; restore"):
            pages.write(run)
    (run / "manifest.json").write_text('{"files": {}}')
    with pytest.raises(UserError, match=r"manifest\.json is not as it was written"):
        pages.write(run)
    shutil.copy(folder / "run1/manifest.json", run)
    shutil.rmtree(run / "checkpoints")  # no page needs them
    shutil.copy(folder / "run1/arrays/cases.npz", run / "arrays")
    pages.write(run)


def test_what_was_made_from_scores_goes_with_them(folder, tmp_path):
    run = tmp_path / "again"
    shutil.copytree(folder / "run0", run)
    (run / "figures/mine.png").write_bytes(b"of the user")
    cli.main(["report", str(run), "--against", str(folder / "run1")])
    made = [run / name for name in ("report.html", "comparison.html", "arrays/severity.npz",
            "figures/severity.png", "figures/severity_examples.png", "severity.md")]  # fmt: skip
    assert all(path.exists() for path in made)
    data = f"npz:{folder / 'x.npz'}"
    experiment.run(tiny(data__name=data, name="<b>&tiny", run_dir=str(run), score="mae"))
    assert not any(path.exists() for path in made)
    assert (run / "figures/mine.png").exists()
    assert (run / "figures/roc_pr.png").exists()
    assert manifest.changed(run) == {}


def test_the_list_marks_what_is_damaged(tmp_path):
    for name, auroc in (("whole", 0.7), ("damaged", 7)):
        (tmp_path / name).mkdir()
        report = {"name": name, "auroc": auroc, "auroc_interval": [0.6, 0.8]}
        (tmp_path / name / "report.json").write_text(json.dumps(report))
    damaged, whole = listing.finished(tmp_path)
    assert (damaged["auroc"], whole["auroc"]) == (None, 0.7)
    assert "damaged: auroc is 7, not a share" in listing.table([damaged, whole])


def test_the_slider_of_a_series_counts_as_the_library_does_and_hits_the_runs_threshold():
    scored, report = stepwise()
    cuts, own = stepped.thresholds(scored.score, report["step_threshold"])
    assert (np.diff(cuts) > 0).all()
    assert cuts[0] < scored.score.min()
    assert cuts[-1] == scored.score.max()
    found = stepped.counts(scored, cuts)
    assert found["step-cut"][own] == np.float32(report["step_threshold"])
    assert found["step-alarms"][[0, -1]].tolist() == [2, 0]  # one for each stretch
    at_own = {name: values[own] for name, values in found.items()}
    assert at_own["step-precision"] == report["range_precision"]
    assert at_own["step-recall"] == report["range_recall"]
    assert at_own["step-delay"] == report["mean_delay_steps"]
    assert at_own["step-found"] == report["ranges_found"]
    assert at_own["step-flagged"] == np.mean(scored.score > np.float32(report["step_threshold"]))
    unlabelled = stepped.counts(scored._replace(y=None), cuts)
    assert [*unlabelled] == ["step-cut", "step-alarms", "step-flagged"]
    np.testing.assert_array_equal(unlabelled["step-alarms"], found["step-alarms"])


def stepwise(steps=3000):
    """The scores of a series of two stretches, an anomaly across their border, and their report."""
    rng = np.random.default_rng(0)
    score, step = rng.random(steps).astype(np.float32), np.arange(steps)
    y = (abs(step - steps // 2) < 20) | (step < 5)
    score += y
    scored = stepped.Steps(score, np.repeat([0, 2], steps // 2), y)
    return scored, by_step.measured(score, y, score > 0.99, scored.stretch) | {
        "step_threshold": 0.99, "step_false_alarm_rate": 0.01, "name": "steps",
    }  # fmt: skip


@pytest.fixture(scope="module")
def of_steps(tmp_path_factory):
    """A page with nothing but the part of a series."""
    folder = tmp_path_factory.mktemp("of_steps")
    scored, report = stepwise()
    (folder / "report.json").write_text(json.dumps(report))
    names = {"step_score": scored.score, "step_stretch": scored.stretch, "step_y": scored.y}
    np.savez(folder / "scores.npz", **names)
    flagged = scored.score > np.float32(0.99)
    (folder / "arrays").mkdir()
    index = np.arange(len(scored.score))
    columns = drawing.condensed(scored.score, flagged, 0.99, index, scored.y)
    np.savez(folder / "arrays/alarms.npz", **columns)
    (folder / "page.html").write_text(frame.page("steps", stepped.section(folder, report)))
    return folder


def test_the_part_of_a_series_is_whole_and_small(of_steps):
    text = (of_steps / "page.html").read_text()
    parsed(text)
    assert "VUS-PR" in text
    assert drawing.RULE in text
    assert len(text) < 150_000
    report = json.loads((of_steps / "report.json").read_text())
    del report["step_threshold"]  # as runs of older versions
    assert [*stepped.section(of_steps, report)] == []


@pytest.mark.slow
def test_the_slider_of_a_series_moves_the_alarms_that_are_shown(of_steps, browser):
    browser.get((of_steps / "page.html").as_uri())
    scored, report = stepwise()
    cuts, own = stepped.thresholds(scored.score, report["step_threshold"])
    found = stepped.counts(scored, cuts)
    edges = read_npz(of_steps / "arrays/alarms.npz")["edges"]
    slider = browser.find_element("id", "step-threshold")
    assert int(slider.get_attribute("value")) == own
    move = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
    box = json.loads(browser.find_element("id", "steps").get_attribute("textContent"))["lane"]
    for position in (0, own, len(cuts) // 2, len(cuts) - 1):
        browser.execute_script(move, slider, position)
        assert shown(browser) == pytest.approx(
            {name: values[position] for name, values in found.items()}, abs=1e-6, nan_ok=True
        )
        flagged = np.add.reduceat(scored.score > cuts[position], edges[:-1]) > 0
        path = browser.find_element("id", "step-bars").get_attribute("d") or ""
        bars = [[float(at) for at in bar] for bar in re.findall(r"M(\S+) \S+?H([\d.]+)v", path)]
        expected = box["left"] + box["width"] * edges[ranges.ranges(flagged)] / edges[-1]
        np.testing.assert_allclose(np.reshape(bars, (-1, 2)), expected, atol=0.01)
    browser.find_element("id", "step-own").click()
    assert shown(browser)["step-cut"] == float(cuts[own])
    assert browser.get_log("browser") == []
