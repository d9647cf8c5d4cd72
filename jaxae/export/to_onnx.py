"""A detector as an ONNX model, for runtimes without JAX: `jaxae export RUN OUT.onnx`.

The converter, jax2onnx, is an extra of its own, because it asks for an older Orbax than jaxae runs
with. It is given primitives alone: what it cannot take, convolutions with the batch on the last
axis for one, is written otherwise before. A model that says something else than the detector is not
kept.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax import export, lax

from jaxae import data, detectors, scoring
from jaxae.data import sources
from jaxae.detectors import Detector
from jaxae.devices import members, parallel
from jaxae.errors import UserError, words
from jaxae.export import exporting, loader
from jaxae.storage import runlog

_TOLERANCE = 1e-5  # of a score, relative to itself or to 1
_OPSET = 21


def write(run: Path, out: Path) -> str:
    """Convert a detector, compare on the run's test rows, and keep what agrees.

    The model takes `rows` [N, *S], raw, and gives `score`, `p_value` and `is_anomaly` [N], the last
    by the run's rule; p <= alpha decides at any other level.

    Args:
      run: the run folder, its detector's, or an export.
      out: the .onnx to write, whole or not at all.

    Returns:
      What was compared, in words.

    Raises:
      UserError: there is no detector, the extra is not installed, the detector cannot be converted,
        the model says something else, or it cannot be written.
    """
    try:
        import jax2onnx
        import onnx
        import onnxruntime
    except ImportError as error:
        raise UserError(
            f"an export to .onnx needs the extra, best in an environment of its own: python -m pip "
            f'install "jaxae[onnx]" ({error})'
        ) from None
    if not out.parent.is_dir():
        raise UserError(f"{out} cannot be written; name a file in a folder that exists")
    with exporting.opened(run) as (_, own):
        detector = detectors.load(own)
    parallel.initialize()
    rows = _test_rows(detector)
    size, model = _converted(detector, jax2onnx)
    content = model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        onnx.checker.check_model(model)
        session = onnxruntime.InferenceSession(content, options)
        found = _run(session, rows, size)
    except Exception as error:  # whatever the runtime says
        raise UserError(f"the ONNX model does not run: {_line(error)}") from None
    said = _compare(detector, found, rows)
    try:
        runlog.write_bytes(out, content)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({words(error)})") from None
    return said + ("" if size is None else f"; it takes {size} rows at a time")


def _test_rows(detector: Detector) -> np.ndarray:
    """The raw test rows of the run, or golden ones where its data are not at hand."""
    try:
        raw = data.raw(detector.about.config.data)
    except UserError:
        return exporting.golden_rows(detector)
    return sources.read(raw.x_test).astype(exporting.row_dtype(detector.about.dtype))


def _converted(detector: Detector, jax2onnx: Any) -> tuple[int | None, Any]:
    """The model, and how many rows it takes at a time; None = any number."""
    about, problem = detector.about, ""
    for size in (None, loader.CHUNK):
        batch = export.symbolic_shape("B")[0] if size is None else size
        shape = jax.ShapeDtypeStruct((batch, *about.shape), exporting.row_dtype(about.dtype))
        given = jax.ShapeDtypeStruct(("B" if size is None else size, *about.shape), shape.dtype)
        try:
            with mock.patch.object(lax, "platform_dependent", _default):
                closed = jax.make_jaxpr(_judge_fn(detector))(shape)
            plain = _plainly(closed)
            model = jax2onnx.to_onnx(plain, inputs=[given], model_name="jaxae", opset=_OPSET)
            _name(model)
            return size, model
        except Exception as error:  # the converter raises all sorts
            problem = _line(error)
    raise UserError(f"the detector cannot be converted to ONNX: {problem}")


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _default(*args: Any, default: Callable, **platforms: Callable) -> Any:
    """What accelerators take: the plain form of everything."""
    return default(*args)


def _judge_fn(detector: Detector) -> Callable:
    """`raw [B, *S] -> (score, p_value, is_anomaly)`, without loops."""
    known = jax.tree.map(jnp.asarray, detectors.tree(detector))
    rule = scoring.rule(detector.decision.rule)
    seen, member = exporting.parts(detector)
    unit = jnp.float32(255 if detector.about.dtype == "uint8" else 1)
    calibration = known["decision"]["calibration"]

    def judge(raw: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        x = seen(known["scaling"], unit, raw)
        scores = [
            member(members.pick(known["variables"], i), members.pick(known["fitted"], i), x)
            for i in range(members.count(known["variables"]))
        ]
        score = scoring.combine(jnp.stack(scores))
        # `split_p_values` searches, which the converter does not know.
        reach = jnp.sum((calibration[None] >= score[:, None]).astype(jnp.float32), axis=1)
        p_value = (1 + reach) / (len(calibration) + 1)
        return score, p_value, jnp.asarray(rule.decide(known["decision"]["state"], score))

    return judge


def _plainly(closed: Any) -> Callable:
    """The same program, primitive by primitive, with convolutions in the layout that ONNX knows."""

    def run(*args: Any) -> Any:
        return tuple(_evaluated(closed.jaxpr, closed.consts, args))

    return run


def _evaluated(jaxpr: Any, consts: Any, args: Any) -> list:
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

    def read(variable: Any) -> Any:
        return variable.val if hasattr(variable, "val") else values[variable]

    for eqn in jaxpr.eqns:
        given = [read(variable) for variable in eqn.invars]
        inner = next((eqn.params[n] for n in _INNER if n in eqn.params), None)
        if eqn.primitive is lax.conv_general_dilated_p:
            made = [_conv(*given, eqn.params)]
        elif inner is not None and eqn.primitive.name not in ("scan", "while", "cond"):
            made = _evaluated(inner.jaxpr, inner.consts, given)
        else:
            made = eqn.primitive.bind(*given, **eqn.params)
            made = made if eqn.primitive.multiple_results else [made]
        values |= zip(eqn.outvars, made, strict=True)
    return [read(variable) for variable in jaxpr.outvars]


_INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr", "call")  # of jit, custom derivatives and `vmap`


def _conv(x: jax.Array, kernel: jax.Array, params: dict) -> jax.Array:
    """A convolution as NHWC and HWIO, between transpositions."""
    lhs, rhs, out = params["dimension_numbers"]
    to_rows, to_kernel = (lhs[0], *lhs[2:], lhs[1]), (*rhs[2:], rhs[1], rhs[0])
    found = lax.conv_general_dilated(
        lax.transpose(x, to_rows),
        lax.transpose(kernel, to_kernel),
        params["window_strides"],
        params["padding"],
        params["lhs_dilation"],
        params["rhs_dilation"],
        ("NHWC", "HWIO", "NHWC"),
        params["feature_group_count"],
    )
    back = np.argsort((out[0], *out[2:], out[1]))
    return lax.transpose(found, tuple(map(int, back)))


def _name(model: Any) -> None:
    """Call the input `rows`, the outputs `score`, `p_value` and `is_anomaly`."""
    graph = model.graph
    names = {graph.input[0].name: "rows"}
    names |= zip((o.name for o in graph.output), ("score", "p_value", "is_anomaly"), strict=True)
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for side in (node.input, node.output):
            renamed = [names.get(name, name) for name in side]
            del side[:]
            side.extend(renamed)


def _run(session: Any, rows: np.ndarray, size: int | None) -> list[np.ndarray]:
    """Every row's outputs, `size` rows at a time, the last ones filled up."""
    if size is None:
        return session.run(None, {"rows": rows})
    fill = -len(rows) % size
    padded = np.concatenate([rows, np.repeat(rows[:1], fill, axis=0)])
    parts = [
        session.run(None, {"rows": padded[at : at + size]}) for at in range(0, len(padded), size)
    ]
    return [np.concatenate(of)[: len(rows)] for of in zip(*parts, strict=True)]


def _steepness(detector: Detector) -> float:
    """By how much a score magnifies rounding: a sum divides its parts by their spread."""
    states = [state for state in detector.fitted.values() if isinstance(state, dict)]
    spreads = [float(np.min(state["std"])) for state in states if "std" in state]
    return max([1.0, *(1 / spread for spread in spreads if spread > 0)])


def _compare(detector: Detector, found: list[np.ndarray], rows: np.ndarray) -> str:
    judged = detectors.judge(detector, rows)
    off = np.abs(found[0] - judged.score) / np.maximum(1, np.abs(judged.score))
    flipped = int(np.sum(found[2] != judged.is_anomaly))
    if not off.max() <= _TOLERANCE * _steepness(detector) or flipped:
        raise UserError(
            f"the ONNX model says something else: scores differ by up to {off.max():.1e}, and "
            f"{flipped} of {len(rows)} decisions"
        )
    return f"{len(rows)} rows judged alike: scores within {off.max():.0e}, all decisions the same"
