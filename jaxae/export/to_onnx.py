"""A detector as an ONNX model, for runtimes without JAX: `jaxae export RUN OUT.onnx`.

The converter, jax2onnx, is a separate extra, because it needs an older Orbax than jaxae. It (0.17)
does not support `custom_vmap`, `platform_dependent` or convolutions with the batch on the last
axis, so the program is traced without these. A model whose outputs differ from the detector's is
not written.
"""

import datetime
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.extend.core import jaxpr_as_fun

from jaxae import data, detectors, ops, scoring
from jaxae.data import sources
from jaxae.detectors import Detector
from jaxae.devices import members, parallel
from jaxae.errors import Unchecked, UserError
from jaxae.export import contents, exporting, loader, program
from jaxae.scoring import pooling
from jaxae.storage import disk, outputs
from jaxae.types import Scaling

_TOLERANCE = 1e-5  # of a score, relative to itself or to 1
_OPSET = 21
_DIGEST = "digest"
_SAID = ("jaxae", "exported", "units", "rule", "threshold", "n_calibration")


def write(run: Path, out: Path, overwrite: bool = False) -> str:
    """Convert a detector, compare on the run's test rows, and write the model if they agree.

    The model takes raw `rows` [N, *S] and returns `score`, `p_value` and `is_anomaly` [N], the last
    by the run's rule; to flag at another level alpha, use p_value <= alpha. If the score has a map,
    `score_map` [N, *P] follows; asking a runtime for the others alone costs nothing more.

    Args:
      run: the run folder, its detector's, or an export.
      out: the .onnx file, written atomically.
      overwrite: replace `out` if it exists.

    Returns:
      A line for the user about the comparison.

    Raises:
      UserError: there is no detector, the extra is not installed, the detector cannot be converted,
        the model's outputs differ, or it cannot be written.
    """
    try:
        import jax2onnx
        import onnx
        import onnxruntime
    except ImportError as error:
        raise UserError(
            f"an export to .onnx needs the extra, best in a separate environment: python -m pip "
            f'install "jaxae[onnx]" ({error})'
        ) from None
    outputs.check(out, (".onnx",), [run], overwrite, "OUT")
    with exporting.opened(run) as (_, folder):
        detector = detectors.load(folder)
    parallel.initialize()
    rows = _test_rows(detector)
    model = _converted(detector, jax2onnx)
    _seal(model, detector)
    content = model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        onnx.checker.check_model(model)
        session = onnxruntime.InferenceSession(content, options)
        found = session.run(None, {"rows": rows})
    except Exception as error:  # the runtime raises many types
        raise UserError(f"the ONNX model does not run: {_line(error)}") from None
    agreement = _compare(detector, found, rows)
    with outputs.system_errors(str(out)):
        disk.write_bytes(out, content)
    return agreement


def check(path: Path) -> str:
    """Compare a model with the digest in its metadata; returns what it says of itself.

    Raises:
      UserError: it has changed, or is no ONNX model.
      Unchecked: it has no digest, or the package onnx is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise Unchecked(f"a model is read by the package onnx ({error})") from None
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except Exception as error:  # the parser raises many types
        raise UserError(f"it is not a readable ONNX model: {_line(error)}") from None
    said = {entry.key: entry.value for entry in model.metadata_props}
    if _DIGEST not in said:
        raise Unchecked("it has no digest: an earlier version wrote it, or another program")
    if said.pop(_DIGEST) != _digest(model):
        raise UserError("it has changed since the export; export it again")
    return f"as it was written: {', '.join(f'{name} {value}' for name, value in said.items())}"


def _seal(model: Any, detector: Detector) -> None:
    """Add what a manifest says of a detector to the model's metadata, and the digest of all."""
    said = contents.said_of(detector, datetime.date.today())
    for name in _SAID:
        model.metadata_props.add(key=name, value=str(said[name]))
    model.metadata_props.add(key=_DIGEST, value=_digest(model))


def _digest(model: Any) -> str:
    """SHA-256 of a model without the entry for it, in hexadecimal."""
    bare = type(model)()
    bare.CopyFrom(model)
    del bare.metadata_props[:]
    bare.metadata_props.extend(e for e in model.metadata_props if e.key != _DIGEST)
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def _test_rows(detector: Detector) -> np.ndarray:
    """The raw test rows of the run, or else all its rows; golden rows without its data."""
    try:
        raw = data.raw(detector.about.config.data)
        rows = raw.x_test if raw.is_labelled else raw.x_train
    except UserError:
        rows = np.zeros(0)
    if not len(rows) or rows.shape[1:] != detector.about.shape:  # of other data, or none
        return program.golden_rows(detector)
    return sources.read(rows).astype(program.row_dtype(detector))


def _converted(detector: Detector, jax2onnx: Any) -> Any:
    """The model, for any number of rows."""
    shape, scaling = detector.about.shape, None
    if program.row_dtype(detector) == "float64":  # XLA computes in float32
        scaling, one = detector.scaling, np.ones_like(detector.scaling.scale, np.float32)
        detector = detector._replace(scaling=Scaling(0 * one, one))
    rows = jax.ShapeDtypeStruct((*export.symbolic_shape("B"), *shape), program.row_dtype(detector))
    try:
        with ops.using("portable"):
            traced = jax.make_jaxpr(_judge_fn(detector))(rows)
        model = jax2onnx.to_onnx(
            jaxpr_as_fun(traced),
            inputs=[rows],
            model_name="jaxae",
            opset=_OPSET,
            input_names=["rows"],
            output_names=_names(detector),
        )
    except Exception as error:  # the converter raises many types
        raise UserError(f"the detector cannot be converted to ONNX: {_line(error)}") from None
    return _scaled_first(model, scaling) if scaling else model


def _scaled_first(model: Any, scaling: Scaling) -> Any:
    """The model, of scaled `rows` in float32, with rows in float64 that it scales first."""
    from onnx import TensorProto, helper, numpy_helper

    graph, (rows,) = model.graph, model.graph.input
    for node in graph.node:
        node.input[:] = ["rows_scaled" if name == rows.name else name for name in node.input]
    rows.type.tensor_type.elem_type = TensorProto.DOUBLE
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(part)[None], f"rows_{name}")
        for name, part in scaling._asdict().items()
    )
    nodes = [
        helper.make_node("Sub", [rows.name, "rows_shift"], ["rows_shifted"]),
        helper.make_node("Div", ["rows_shifted", "rows_scale"], ["rows_divided"]),
        helper.make_node("Cast", ["rows_divided"], ["rows_scaled"], to=TensorProto.FLOAT),
    ]
    nodes += graph.node
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _names(detector: Detector) -> list[str]:
    maps = ["score_map"] if program.places_of(detector) else []
    return ["score", "p_value", "is_anomaly", *maps]


def _judge_fn(detector: Detector) -> Callable:
    """`raw [B, *S] -> (score, p_value, is_anomaly)` and score maps if there are any; no loops."""
    tree = jax.tree.map(jnp.asarray, detectors.tree(detector))
    rule = scoring.rule(detector.decision.rule)
    functions = program.scoring_functions(detector)
    shift, scale = (tree["scaling"][name][None] for name in ("shift", "scale"))
    unit = jnp.float32(255 if detector.about.dtype == "uint8" else 1)
    calibration = tree["decision"]["calibration"]

    def combined(of_member: Callable, x: jax.Array) -> jax.Array:
        of_members = [
            of_member(members.pick(tree["variables"], i), members.pick(tree["fitted"], i), x)
            for i in range(members.count(tree["variables"]))
        ]
        return scoring.combine(jnp.stack(of_members))

    def judge(raw: jax.Array) -> tuple[jax.Array, ...]:
        x = functions.scaled(shift, scale, unit, raw)
        score = jnp.asarray(detectors.saturated(combined(functions.scores, x), x))
        # `split_p_values` uses searchsorted, which the converter does not support.
        count = jnp.sum((calibration[None] >= score[:, None]).astype(jnp.float32), axis=1)
        p_value = (1 + count) / (len(calibration) + 1)
        judged = score, p_value, jnp.asarray(rule.decide(tree["decision"]["state"], score))
        if not functions.maps:
            return judged
        return *judged, jnp.minimum(combined(functions.maps, x), pooling.LARGEST)

    return judge


def _steepness(detector: Detector) -> float:
    """The factor by which a score magnifies rounding: a sum divides each score by its spread."""
    states = [state for state in detector.fitted.values() if isinstance(state, dict)]
    spreads = [float(np.min(state["std"])) for state in states if "std" in state]
    return max([1.0, *(1 / spread for spread in spreads if spread > 0)])


def _compare(detector: Detector, outputs: list[np.ndarray], rows: np.ndarray) -> str:
    judged = detectors.judge(detector, rows)
    error = np.abs(outputs[0] - judged.score) / np.maximum(1, np.abs(judged.score))
    flipped = int(np.sum(outputs[2] != judged.is_anomaly))
    if not error.max() <= _TOLERANCE * _steepness(detector) or flipped:
        raise UserError(
            f"the ONNX model differs from the detector: scores by up to {error.max():.1e}, and "
            f"{flipped} of {len(rows)} decisions"
        )
    words = f"{len(rows)} rows agree: scores within {error.max():.0e}, all decisions the same"
    if len(outputs) < 4:
        return words
    maps = detectors.score_maps(detector, rows)
    error = loader.map_error(outputs[3], maps)
    if not error <= loader.MAP_TOLERANCE * _steepness(detector):
        raise UserError(f"score maps of the ONNX model differ from the detector's by {error:.1e}")
    return f"{words}; score maps within {error:.0e} of their largest values"
