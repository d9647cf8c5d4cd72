"""Write the section "On a GPU" of docs/speed.md from results of `benchmarks.accelerator_check`.

    python -m benchmarks.accelerator_report build/check     # keeps the results, writes the section
    python -m benchmarks.accelerator_report --check         # do the page and the results agree?

Only results measured on an accelerator are accepted; those of a rehearsal are refused. They are
added to benchmarks/results/results.jsonl, which keeps the raw rounds of all devices measured so
far, and the section is generated from that file.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.on_device import table
from benchmarks.on_device.results import NAME, Record, has_value, latest, read
from benchmarks.on_device.stages import ROOT
from benchmarks.records import paired

KEPT = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "speed.md"
BEGIN, END = "<!-- on a gpu: begin -->", "<!-- on a gpu: end -->"
COMMAND = "python -m benchmarks.accelerator_check --out build/check"
_NOTHING = f"""Nothing was measured on a GPU or TPU so far.
The numbers for them in [scale](scale.md) are predictions. To measure one, run

```sh
{COMMAND}      # about eight minutes
python -m benchmarks.accelerator_report build/check
```
"""


def refuse_rehearsals(records: Sequence[Record], where: Path) -> None:
    """Refuse results that were not measured on an accelerator.

    Raises:
      ValueError: there are some; names the file.
    """
    for record in records:
        if record["rehearsal"] or record["device"]["platform"] == "cpu":
            raise ValueError(
                f"{where / NAME}: device.platform is {record['device']['platform']!r}, of a "
                "rehearsal; the section is of accelerators only"
            )


def section(records: Sequence[Record]) -> str:
    """The Markdown between the markers."""
    if not any(map(has_value, records)):
        return _NOTHING
    kinds = list(dict.fromkeys(record["device"]["kind"] for record in records))
    parts = [_device([r for r in records if r["device"]["kind"] == kind]) for kind in kinds]
    return "\n".join(parts)


def _device(records: Sequence[Record]) -> str:
    last = records[-1]
    versions = ", ".join(f"{name} {value}" for name, value in sorted(last["versions"].items()))
    revisions = dict.fromkeys(str(r.get("revision"))[:7] for r in records)
    about = f"{versions}; revision {', '.join(revisions)}"
    lines = [f"**{last['device']['kind']}** ({about}):", ""]
    for make in (_speed, _members, _whole, _equality, _missing):
        lines += [*found, ""] if (found := make(records)) else []
    return "\n".join(lines)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


_HEAD = (
    *("model", "train steps/s [range]", "default (`as is`)", "PyTorch's best", "ratio [95 %]"),
    *("/ eager", "/ plain Flax", "scored rows/s", "PyTorch's best", "ratio [95 %]"),
)


def _speed(records: Sequence[Record]) -> list[str]:
    rows = [_model(records, model) for model in table.models(records, "speed")]
    rows = [row for row in rows if row]
    if not rows:
        return []
    precision = next(r["precision"] for r in records if r["what"] == "train" and has_value(r))
    return [
        f"The fastest variant of jaxae and the fastest setting of PyTorch. Both train in JAX's "
        f"{precision} precision of float32 products and score in full float32:",
        "",
        _row(*_HEAD), _row(*["---"] * len(_HEAD)), *rows,
    ]  # fmt: skip


def _model(records: Sequence[Record], model: str) -> str:
    """A row of the table; empty if jaxae or PyTorch was not measured."""
    train, score = (
        {who: table.of(records, what, model, who) for who in ("jaxae", "torch", "flax")}
        for what in ("train", "score")
    )
    ours, theirs = table.fastest(train["jaxae"]), table.fastest(train["torch"])
    if not (ours and theirs):
        return ""
    eager = table.fastest(train["torch"], lambda name: name == "eager")
    scored, other = table.fastest(score["jaxae"]), table.fastest(score["torch"])
    return _row(
        model,
        f"{ours['median']:.4g} [{ours['min']:.4g}, {ours['max']:.4g}] ({ours['setting']})",
        _number(table.fastest(train["jaxae"], lambda name: name == "as is")),
        _named(theirs), _ratio(ours, theirs), _short(ours, eager),
        _short(ours, table.fastest(train["flax"])), _named(scored), _named(other),
        _ratio(scored, other),
    )  # fmt: skip


def _number(record: Record | None) -> str:
    return f"{record['median']:.4g}" if record else "-"


def _named(record: Record | None) -> str:
    return f"{record['median']:.4g} ({record['setting']})" if record else "-"


def _ratio(ours: Record | None, theirs: Record | None) -> str:
    """The ratio of two speeds, with an interval if both were measured in the same rounds."""
    if not (ours and theirs):
        return "-"
    if len(ours["rounds"]) == len(theirs["rounds"]):
        found = paired(ours["rounds"], theirs["rounds"])
        return f"**{found.middle:.2f}** [{found.low:.2f}, {found.high:.2f}]"
    return f"**{table.ratio(ours, theirs):.2f}**"


def _short(ours: Record | None, theirs: Record | None) -> str:
    value = table.ratio(ours, theirs)
    return "-" if value is None else f"{value:.2f}"


def _members(records: Sequence[Record]) -> list[str]:
    head = ("model", "members", "one program, member-steps/s", "jaxae, one by one",
            "PyTorch, one by one", "/ jaxae", "/ PyTorch")  # fmt: skip
    rows, points = [], []
    for model in table.models(records, "members"):
        grid, alone, theirs = (
            table.fastest(table.of(records, what, model, who))
            for what, who in (("grid", "jaxae"), ("loop", "jaxae"), ("loop", "torch"))
        )
        if grid:
            cells = (_number(grid), _number(alone), _named(theirs), _short(grid, alone))
            rows.append(_row(model, str(grid["members"]), *cells, _short(grid, theirs)))
        for what, words in (("ensemble", "number of members"), ("batch", "batch size")):
            found = sorted(table.of(records, what, model, "jaxae"), key=lambda r: r["x"])
            shown = ", ".join(f"{r['median']:.4g} at {r['x']}" for r in found)
            points += [f"* {model}, member-steps/s by {words}: {shown}"] if shown else []
    title = "One-vs-rest, all members in one program or one after another:"
    lines = [title, "", _row(*head), _row(*["---"] * len(head)), *rows]
    return (lines if rows else []) + ([""] if rows and points else []) + points


def _whole(records: Sequence[Record]) -> list[str]:
    found = [r for r in records if r["what"] == "run" and has_value(r)]
    shown = ", ".join(f"{r['seconds']:.1f} s with {r['setting']}" for r in found)
    words = "One-vs-rest on digits, from the start of Python to the report"
    return [f"{words}: {shown}."] if found else []


def _equality(records: Sequence[Record]) -> list[str]:
    found = [r for r in records if r["what"] == "agreement" and has_value(r) and "ok" in r]
    if not found:
        return []
    bad = [r for r in found if not r["ok"]]
    lines = [f"{len(found) - len(bad)} of {len(found)} comparisons of the device with the CPU "
             "and with itself are within tolerance."]  # fmt: skip
    lines += [
        f"* {r['model']}, {r['quantity']}, {r['setting']}: off by {float(r['deviation']):.1e}, "
        f"allowed {r['allowed']:.0e}"
        for r in bad
    ]
    return lines + _checked(records)


def _checked(records: Sequence[Record]) -> list[str]:
    """Lines on the tests for a device, and on verifying a run and an export made on a CPU."""
    lines = []
    for r in (r for r in records if r["what"] == "tests" and has_value(r)):
        cut = "" if r["whole"] else " (not all ran in the time available)"
        counts = f"{r['passed']} passed, {r['failed']} failed, {r['skipped']} skipped"
        lines.append(f"Tests marked for a device: {counts}{cut}.")
    checks = [r for r in records if r["what"] == "verified" and has_value(r)]
    if checks:
        good = sum(r["ok"] for r in checks)
        title = "A run trained on a CPU, verified on the device"
        lines.append(f"{title}: {good} of {len(checks)} checks agree.")
    return lines


def _missing(records: Sequence[Record]) -> list[str]:
    counts = {word: sum(reason in r for r in records) for reason, word in
              (("error", "failed"), ("no_time", "had no time"))}  # fmt: skip
    text = " and ".join(f"{count} {word}" for word, count in counts.items() if count)
    return [f"Of all measurements, {text}: see `benchmarks/results/`."] if text else []


def written(page: str, content: str) -> str:
    """The page with the text between the markers replaced.

    Raises:
      ValueError: a marker is missing.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"{PAGE} has not one {BEGIN} and one {END}")
    pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
    replace: Callable[[re.Match], str] = lambda _: f"{BEGIN}\n{content}{END}"  # noqa: E731
    return re.sub(pattern, replace, page, flags=re.DOTALL)


def kept() -> list[Record]:
    """The results kept in the repository; empty if no accelerator has been measured."""
    return accepted(KEPT) if (KEPT / NAME).is_file() else []


def accepted(folder: Path) -> list[Record]:
    """The results in a folder.

    Raises:
      ValueError: there are none, a line is invalid, or they are from a rehearsal.
    """
    records = read(folder)
    refuse_rehearsals(records, folder)
    return records


def keep(records: Sequence[Record]) -> list[Record]:
    """Add results to the kept ones, replacing older ones of the same measurement and device."""
    both = latest([*kept(), *records])
    KEPT.mkdir(exist_ok=True)
    (KEPT / NAME).write_text("".join(json.dumps(record) + "\n" for record in both))
    return both


def main(args: list[str] | None = None) -> int:
    """Write the section or check it; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path, nargs="?", metavar="DIR",
                        help="folder written by benchmarks.accelerator_check --out")  # fmt: skip
    parser.add_argument("--check", action="store_true",
                        help="only check that the page agrees with the kept results")  # fmt: skip
    given = parser.parse_args(args)
    if bool(given.folder) == given.check:
        parser.error("name DIR to write the section from it, or use --check alone")
    try:
        records = kept() if given.check else keep(accepted(given.folder))
        page = PAGE.read_text()
        new = written(page, section(records))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if given.check:
        print("docs and results agree" if new == page else f"{PAGE} differs from the results")
        return int(new != page)
    PAGE.write_text(new)
    print(f"{PAGE}: written from {len(records)} results")
    return 0


if __name__ == "__main__":
    sys.exit(main())
