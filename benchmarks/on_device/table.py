"""A table of the results of `accelerator_check`: at most 40 lines of 100 characters."""

from collections.abc import Callable, Iterable, Sequence

from benchmarks.on_device.results import Record, has_value

WIDTH, HEIGHT = 100, 40


def of(records: Iterable[Record], what: str, model: str, framework: str) -> list[Record]:
    """The results of one kind for a model and framework, without those that have no value."""
    return [
        record for record in records
        if has_value(record) and record["what"] == what and record["model"] == model
        and record.get("framework") == framework
    ]  # fmt: skip


def fastest(records: Iterable[Record], wanted: Callable[[str], bool] = bool) -> Record | None:
    """The result with the highest median among the wanted settings."""
    able = [record for record in records if wanted(record["setting"])]
    return max(able, key=lambda record: record["median"], default=None)


def models(records: Sequence[Record], stage: str) -> list[str]:
    """The models that a stage measured, in its order."""
    return list(dict.fromkeys(r["model"] for r in records if r["stage"] == stage and r["model"]))


def ratio(ours: Record | None, theirs: Record | None) -> float | None:
    """The ratio of two medians; None if one of them is missing."""
    return ours["median"] / theirs["median"] if ours and theirs else None


def text(records: Sequence[Record]) -> str:
    """The table."""
    sections = [_speed(records), _members(records), _whole(records), _equality(records)]
    lines = [line for section in sections for line in section]
    lines += _missing(records, HEIGHT - len(lines))
    return "\n".join(line[:WIDTH].rstrip() for line in lines[:HEIGHT])


def _number(value: float | None, digits: int = 4) -> str:
    """A short form: 1234, 12.3, 1.2e+06; a dash for None."""
    if value is None:
        return "-"
    return f"{value:.0f}" if 1000 <= value < 1e6 else f"{value:.{digits}g}"


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    cut = [cell[:width] for cell, width in zip(cells, widths, strict=True)]
    others = [cell.rjust(width) for cell, width in zip(cut[1:], widths[1:], strict=True)]
    return " ".join([cut[0].ljust(widths[0]), *others])


_SPEED_WIDTHS = (17, 6, 8, 8, 16, 8, 15, 8, 5)


def _speed(records: Sequence[Record]) -> list[str]:
    """Two lines per model: training and scoring."""
    found = models(records, "speed")
    if not found:
        return []
    head = ("model", "", "as is", "best", "jaxae's best", "torch", "its setting", "eager", "ratio")
    lines = [_row(head, _SPEED_WIDTHS)]
    for model in found:
        for what, unit in (("train", "step/s"), ("score", "rows/s")):
            ours, theirs = (of(records, what, model, who) for who in ("jaxae", "torch"))
            best, other = fastest(ours), fastest(theirs)
            if not (best or other):
                continue  # nothing but reasons, which stand below
            cells = (
                model if what == "train" else "", unit,
                _number(_median(fastest(ours, lambda name: name == "as is"))),
                _number(_median(best)), best["setting"] if best else "-", _number(_median(other)),
                other["setting"] if other else "-",
                _number(_median(fastest(theirs, lambda name: name == "eager"))),
                _number(ratio(best, other), 3),
            )  # fmt: skip
            lines.append(_row(cells, _SPEED_WIDTHS))
    return lines


def _median(record: Record | None) -> float | None:
    return record["median"] if record else None


def _members(records: Sequence[Record]) -> list[str]:
    lines = []
    for model in models(records, "members"):
        grid = fastest(of(records, "grid", model, "jaxae"))
        alone = fastest(of(records, "loop", model, "jaxae"))
        theirs = fastest(of(records, "loop", model, "torch"))
        name = f" ({theirs['setting']})" if theirs else ""
        size = grid["members"] if grid else "?"
        lines.append(
            f"{model}: {size} members in one program {_number(_median(grid))} member-steps/s, one "
            f"by one {_number(_median(alone))},"
        )
        lines.append(
            f"  torch{name} {_number(_median(theirs))}: {_number(ratio(grid, alone), 3)} and "
            f"{_number(ratio(grid, theirs), 3)} times"
        )
        for what in ("ensemble", "batch"):
            points = sorted(of(records, what, model, "jaxae"), key=lambda record: record["x"])
            shown = ", ".join(f"{p['x']}: {_number(p['median'])}" for p in points)
            lines += [f"  {what} -> member-steps/s  {shown}"] if shown else []
    return lines


def _whole(records: Sequence[Record]) -> list[str]:
    found = [r for r in records if r["what"] == "run" and has_value(r)]
    shown = ", ".join(f"{r['seconds']:.1f} s ({r['setting']})" for r in found)
    members = found[0]["members"] if found else 0
    return [f"one-vs-rest, {members} members, start to report: {shown}"] if found else []


def _equality(records: Sequence[Record]) -> list[str]:
    """The largest deviation of each kind, and those that exceed the tolerance."""
    found = [r for r in records if r["what"] == "agreement" and has_value(r)]
    worst: dict[str, Record] = {}
    for record in (r for r in found if "allowed" in r):
        kind = record["quantity"]
        kind = "scores" if kind.startswith("score ") else kind
        if kind not in worst or _deviation(record) > _deviation(worst[kind]):
            worst[kind] = record
    lines = []
    for kinds in (list(worst)[i : i + 2] for i in range(0, len(worst), 2)):
        shown = "; ".join(f"{k} {_deviation(worst[k]):.1e} ({worst[k]['model']})" for k in kinds)
        lines.append(f"worst: {shown}")
    bad = [r for r in found if r.get("ok") is False]
    if found:
        agreed = sum(r.get("ok") is True for r in found)
        names = ", ".join(f"{r['model']} {r['quantity']}" for r in bad[:2])
        lines.append(f"equality: {agreed} within what is allowed, {len(bad)} beyond {names}")
    tests = [r for r in records if r["what"] == "tests" and has_value(r)]
    for r in tests:
        cut = "" if r["whole"] else "; there was no time for all"
        counts = f"{r['passed']} passed, {r['failed']} failed, {r['skipped']} skipped"
        lines.append(f"device tests: {counts}{cut} {', '.join(r['names'][:2])}")
    checks = [r for r in records if r["what"] == "verified" and has_value(r)]
    failed = ", ".join(r["setting"] for r in checks if not r["ok"])
    if checks:
        good = sum(r["ok"] for r in checks)
        lines.append(f"trained on a CPU, verified here: {good} of {len(checks)} {failed}")
    return lines


def _deviation(record: Record) -> float:
    return float(record["deviation"])


def _missing(records: Sequence[Record], room: int) -> list[str]:
    """What failed, then what is unavailable or had no time, as far as there is room."""
    failed = {_name(r): r["error"] for r in records if "error" in r}
    lines = [f"FAILED {name}: {error}" for name, error in failed.items()]
    for reason, words in (("no_time", "no time"), ("unavailable", "not available here")):
        names = list(dict.fromkeys(_name(r) for r in records if reason in r))
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        lines += [f"{words}: {shown}"] if names else []
    if len(lines) > room:
        lines = [*lines[: max(0, room - 1)], f"and {len(lines) - room + 1} more: see results.jsonl"]
    return lines


def _name(record: Record) -> str:
    parts = (record["stage"], record.get("part"), record["model"], record.get("framework"),
             record["setting"], record.get("quantity"))  # fmt: skip
    return " ".join(dict.fromkeys(part for part in parts if part)) + (
        f" {record['what']}" if record["what"] not in ("stage", "train") else ""
    )
