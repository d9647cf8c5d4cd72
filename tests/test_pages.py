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
from jaxae.errors import UserError
from jaxae.reports import pages
from jaxae.reports.pages import run as single
from jaxae.stats import conformal, metrics
from jaxae.workflows import experiment

XLINK = "http://www.w3.org/1999/xlink"
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("pages")
    data = write_npz(root / "x.npz")
    for seed in (0, 1):
        changes = {"name": "<b>&tiny", "studies": ("severity",)} if not seed else {}
        experiment.run(
            tiny(data__name=f"npz:{data}", seed=seed, run_dir=str(root / f"run{seed}"), **changes)
        )
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
    for title in ("most anomalous", "borderline", "Severity of corruptions", "Training", "Classes"):
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


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"auroc": "high"}, "auroc is 'high'"),
        ({"auroc_interval": 3}, "auroc_interval is 3"),
        ({"f1_interval": [0.1, None]}, "f1_interval is"),
    ],
)
def test_a_report_that_somebody_changed_is_one_line(changes, says, folder, tmp_path):
    other = tmp_path / "changed"
    shutil.copytree(folder / "run1", other)
    report = json.loads((other / "report.json").read_text())
    (other / "report.json").write_text(json.dumps(report | changes))
    with pytest.raises(UserError, match=says):
        pages.write(other)
    assert not (other / "report.html").exists()
