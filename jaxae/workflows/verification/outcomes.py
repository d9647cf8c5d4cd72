"""The result of one check, and how what is on record is compared with what follows from it."""

import contextlib
import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxae.errors import Unchecked, UserError
from jaxae.export.loader import ExportError
from jaxae.types import AnyArray

AGAIN = "run the same command again, which writes what is missing"
_RELATIVE, _SMALL = 1e-5, 1e-9  # rounding of numbers in a report
_NAMED = 3  # the most differences in one line
ROUNDING = 1e-5  # of a score, relative to itself or to 1: another machine rounds differently
_RESCALED = 1e-3  # of a score, relative to itself or to most others: beyond, it is no rounding
_LEAST = 1e-12


class Check(NamedTuple):
    """One thing that was checked, and the result."""

    name: str
    outcome: Literal["ok", "FAILED", "not checked"]
    words: str

    @property
    def ok(self) -> bool:
        """Whether it was checked and is as recorded."""
        return self.outcome == "ok"


def check(name: str, look: Callable[..., str], *args: Any) -> Check:
    """The result of a look, which returns words, or raises what it has found.

    Whatever a damaged file makes it raise is a failure of this check; the others go on.
    """
    try:
        return Check(name, "ok", look(*args))
    except Unchecked as why:
        return Check(name, "not checked", _line(why))
    except (UserError, ExportError) as error:
        return Check(name, "FAILED", _line(error))
    except Exception as error:
        words = f"a file is not as it was written ({type(error).__name__}: {_line(error)}); {AGAIN}"
        return Check(name, "FAILED", words)


def _line(error: Exception) -> str:
    return " ".join(str(error).partition("\n\n")[0].split())


@contextlib.contextmanager
def needing(part: str) -> Iterator[None]:
    """Turn any failure to read a part, which has its own check, into `Unchecked`."""
    try:
        yield
    except Exception as error:
        raise Unchecked(f"this needs the {part}, see above") from error


def refuse_differences(
    recorded: dict[str, Any],
    computed: dict[str, Any],
    where: str,
    partly: bool,
    more: Container[str] | None = None,
) -> None:
    """Raise a `UserError` that names the values on record that differ from those computed now.

    Args:
      recorded: what a JSON file holds.
      computed: what it must hold.
      where: the file, for the message.
      partly: whether another version may have written it, with fewer values or others.
      more: what else it may hold; None = anything.
    """
    found = [*_differences(recorded, json.loads(json.dumps(computed)), where, partly)]
    if more is not None and not partly:
        odd = (name for name in recorded if name not in computed and name not in more)
        found += [f"{name} is in {where}, but does not follow from anything" for name in odd]
    if found:
        raise UserError(listed(found))


def refuse_other_rule(
    rule: str, computed: Mapping[str, Any], recorded: Mapping[str, Any], scores: AnyArray, of: str
) -> None:
    """Raise a `UserError` if the state of a rule, fitted to these scores, is another on record."""
    size = np.median(np.abs(scores))
    for name, value in computed.items():
        found = recorded.get(name, np.nan)
        if not np.allclose(found, value, rtol=ROUNDING, atol=ROUNDING * size):
            raise UserError(f"{rule} gives {name} {value} of {of}, but the detector has {found}")


def refuse_lacking(arrays: Container[str], names: Iterable[str]) -> None:
    """Raise a `UserError` if one of these arrays is not in scores.npz."""
    for name in names:
        if name not in arrays:
            raise UserError(f"scores.npz lacks {name}")


def off(old: np.ndarray, new: np.ndarray) -> tuple[float, bool]:
    """The largest difference, relative to the score or to 1, and whether it is beyond rounding."""
    old = old.astype(np.float64)
    apart, size = np.abs(old - new), np.abs(old)
    rounding = ROUNDING * np.maximum(1, size)
    # Scores may be far below 1; nine in ten say how large they are.
    is_rounded = apart <= np.minimum(
        rounding, _RESCALED * np.maximum(size, np.quantile(size, 0.9)) + _LEAST
    )
    return float((apart / np.maximum(1, size)).max()), not is_rounded.all()  # NaN is not


def refuse_other_scores(recorded: np.ndarray, computed: np.ndarray, what: str) -> None:
    """Raise a `UserError` if scores on record are not those that were computed now."""
    if recorded.shape != computed.shape:
        raise UserError(f"{recorded.size} {what} are on record, but the data have {computed.size}")
    largest, is_off = off(recorded, computed)
    if is_off:
        raise UserError(f"{what} differ by up to {largest:.1e}")


def listed(found: list[str]) -> str:
    """The first few of many findings, and how many more there are."""
    more = [f"and {len(found) - _NAMED} more"] if len(found) > _NAMED else []
    return "; ".join(found[:_NAMED] + more)


def _differences(
    recorded: dict, computed: dict, where: str, partly: bool, prefix: str = ""
) -> Iterator[str]:
    for name, value in computed.items():
        if name not in recorded:
            if not partly:
                yield f"{prefix}{name} is not in {where}"
        elif isinstance(value, dict) and isinstance(recorded[name], dict):
            yield from _differences(recorded[name], value, where, partly, f"{prefix}{name} ")
        elif not _agree(recorded[name], value):
            old, new = (_shown(one) for one in (recorded[name], value))
            yield f"{prefix}{name} is {old} in {where}, but {new} by the files beside it"


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _agree(recorded: Any, computed: Any) -> bool:
    """Whether two values from JSON agree, numbers with a fraction up to rounding."""
    if isinstance(computed, list) and isinstance(recorded, list):
        pairs = zip(recorded, computed, strict=False)
        return len(recorded) == len(computed) and all(_agree(a, b) for a, b in pairs)
    if isinstance(computed, float) and type(recorded) in (int, float):
        size = max(abs(recorded), abs(computed))
        return abs(recorded - computed) <= max(_SMALL, _RELATIVE * size)
    return type(recorded) is type(computed) and recorded == computed
