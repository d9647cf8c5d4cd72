"""The PyTorch peer: steps that are replayed make the same updates as steps made one by one.

Without a GPU what a CUDA graph would replay is called again instead, see `captured`: all around the
recording runs as it will there. With one the graphs themselves are tested.
"""

import contextlib
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from benchmarks import cases, programs

if not find_spec("torch"):
    pytest.skip("needs the bench extra: torch is not installed", allow_module_level=True)

import torch

from benchmarks import reference_torch as peer

# One dense, one convolutional, and one with two networks, two optimisers and running statistics.
MODELS = ("ecg_dense", "fmnist_denoise", "mnist_alocc")
STEPS = 2 * peer.UNROLLED
ON_CPU = peer.DEVICE.type == "cpu"
# How far weights may be apart that were rounded otherwise, see `apart`; a learning rate that is off
# by a tenth moves them by more than .04.
ROUNDED = 0.02


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Of models so small more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made(name: str, setting: str = "eager") -> peer.Program:
    """A model with small batches and no noise, at weights of its own."""
    changes = {"train.noise_std": 0.0, "train.batch_size": 8}
    if name == "mnist_alocc":  # at its own rates rounding is a third of all movement by step 32
        changes |= {"optim.lr": 1e-5, "optim.lr_discriminator": 1e-5}
    program = peer.build(cases.CASES[name], cases.config(name, **changes), setting, "highest")
    program.load(start(name))
    return program


def start(name: str) -> cases.Weights:
    return programs.initial_weights({"model": name, "dtype": "float32", "batch": 8})


def batches(program: peer.Program, name: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, order [T, 8]), of which each batch holds others."""
    x = program.prepare(cases.rows(cases.CASES[name], 8 * count))
    order = np.random.default_rng(0).permutation(8 * count).reshape(count, 8)
    return x, torch.from_numpy(order).to(peer.DEVICE)


def after(program: peer.Program, name: str, steps: int, count: int = 24) -> cases.Weights:
    program.trainer(*batches(program, name, count))(steps)
    return program.parameters()


def apart(name: str, found: cases.Weights, expected: cases.Weights) -> float:
    """||found - expected|| / ||expected - start||, over all weights."""
    first = start(name)
    assert found.keys() == expected.keys() == first.keys()
    off = sum(np.square(found[key] - value).sum() for key, value in expected.items())
    moved = sum(np.square(first[key] - value).sum() for key, value in expected.items())
    assert moved > 0
    return float(np.sqrt(off / moved))


def assert_same(found: cases.Weights, expected: cases.Weights, tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=0, atol=tolerance, err_msg=key)


@pytest.mark.parametrize("name", MODELS)
def test_replayed_steps_are_those_made_one_by_one(name):
    plain, replayed = made(name), made(name, "graph")
    x, order = batches(plain, name, 24)
    for i in range(STEPS):  # more steps than batches: they start over within a replay
        plain.step(x, order[i % len(order)])
    expected = plain.parameters()
    train = replayed.trainer(x, order)
    train(0)
    assert_same(replayed.parameters(), start(name), 0)  # recording leaves no trace
    train(STEPS)
    assert apart(name, replayed.parameters(), expected) <= (0 if ON_CPU else ROUNDED)


def test_recording_leaves_running_statistics_alone():
    program = made("mnist_alocc", "graph")
    before = {k: v.clone() for k, v in program._net.state_dict().items()}
    program.trainer(*batches(program, "mnist_alocc", 2))(0)
    known = program._net.state_dict()
    assert any("running_mean" in key for key in known)
    for key, value in before.items():
        torch.testing.assert_close(known[key], value, rtol=0, atol=0)


def test_steps_before_a_recording_stay():
    # A trainer may be made when the optimiser already knows something of the gradients.
    plain, replayed = made("ecg_dense"), made("ecg_dense", "graph")
    x, order = batches(plain, "ecg_dense", 16)
    for program in (plain, replayed):
        program.step(x, order[3])
        program.trainer(x, order)(16)
    found, expected = replayed.parameters(), plain.parameters()
    assert apart("ecg_dense", found, expected) <= (0 if ON_CPU else ROUNDED)


def test_replays_come_in_whole_numbers():
    program = made("ecg_dense", "graph")
    assert program.steps == peer.UNROLLED
    with pytest.raises(ValueError, match="17 steps are not a multiple of 16"):
        after(program, "ecg_dense", 17)
    assert made("ecg_dense").steps == 0


def test_a_graph_is_recorded_on_the_stream_that_it_was_rehearsed_on(monkeypatch):
    done, streams = [], ["default"]

    class Stream:
        def wait_stream(self, other):
            done.append(("wait", other))

    @contextlib.contextmanager
    def on(stream):
        streams.append(stream)
        yield
        streams.pop()

    class Graph:
        def replay(self):
            done.append(("replay", streams[-1]))

    monkeypatch.setattr(peer, "DEVICE", torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, stream: on(stream))
    replay = peer.captured(
        lambda: done.append(("work", streams[-1])) or "found",
        lambda: done.append(("rehearsal", streams[-1])),
    )
    names = ["wait", *["rehearsal"] * peer.WARM_UP, "wait", "work"]
    assert [name for name, _ in done] == names
    (stream,) = {where for name, where in done if name != "wait"}
    assert isinstance(stream, Stream)
    assert done[-2] == ("wait", stream)
    assert (replay(), replay()) == ("found", "found")
    assert done[-2:] == [("replay", "default")] * 2


def test_blocks_hold_batches_in_turn():
    order = torch.arange(6).reshape(3, 2)
    blocks = peer.in_blocks(order, 2)
    assert blocks.shape == (3, 2, 2)
    assert blocks.reshape(-1, 2)[:, 0].tolist() == [0, 2, 4, 0, 2, 4]
    assert peer.in_blocks(order, 3).shape == (1, 3, 2)


@pytest.mark.parametrize("name", MODELS)
def test_recorded_scores_and_gradients_are_those_computed_at_once(name):
    plain, recorded = made(name), made(name, "graph")
    x = plain.prepare(cases.rows(cases.CASES[name], 24, seed=1))
    expected = plain.score(x).cpu().numpy()
    scorer = recorded.scorer(x)
    for chunk in (8, 24, 10):
        np.testing.assert_allclose(scorer(chunk), expected, rtol=1e-5)
    recorded.load({key: value + np.float32(0.1) for key, value in start(name).items()})
    assert np.abs(scorer(8) / expected - 1).max() > 1e-3, "a replay sees new weights"
    recorded.load(start(name))
    (losses, found), (known, gradients) = recorded.gradients(x), plain.gradients(x)
    assert losses == pytest.approx(known, rel=1e-5)
    assert_same(found, gradients, 1e-5 * max(np.abs(g).max() for g in gradients.values()))


def updated(kind: type[torch.optim.Optimizer], **options) -> list[torch.Tensor]:
    """Parameters after five steps of known gradients."""
    generator = torch.Generator().manual_seed(0)
    random = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    params = [torch.nn.Parameter(random(5, 3)), torch.nn.Parameter(random(7))]
    optimiser = kind(params, 0.01, **options)
    for _ in range(5):
        for p in params:
            p.grad = random(*p.shape)
        optimiser.step()
    return [p.detach() for p in params]


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("rmsprop", torch.optim.RMSprop)]
)
def test_the_forms_of_a_gpu_make_the_same_updates(name, kind, monkeypatch):
    # PyTorch refuses to make capturable steps on a CPU, though it can.
    module = sys.modules[kind.__module__]
    monkeypatch.setattr(module, "_get_capturable_supported_devices", lambda **_: ["cpu"])
    plain = updated(kind, foreach=False)
    forms = [peer.optimiser_options(name, "cuda", graph) for graph in (False, True)]
    assert [form["capturable"] for form in forms] == [False, True]
    assert all(form.get("fused") or form.get("foreach") for form in forms)
    for form in forms:
        for found, expected in zip(updated(kind, **form), plain, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert not peer.optimiser_options(name, "cpu", True)["capturable"]


def switches() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.mark.filterwarnings("ignore:Please use the new API:UserWarning")
def test_precision_is_one_for_products_and_convolutions(monkeypatch):
    monkeypatch.setattr(peer, "DEVICE", torch.device("cuda"))
    before = switches()
    for precision, fast in (("default", True), ("highest", False)):
        with peer.computing(precision), peer.computing("highest"):
            assert switches() == (False, False)
        with peer.computing("highest"), peer.computing(precision):
            assert switches() == (fast, fast)
            newer = getattr(torch.backends.cudnn, "conv", None), torch.backends.cuda.matmul
            for switch in newer if newer[0] else ():  # PyTorch 2.9 and later compute by these
                assert (switch.fp32_precision == "tf32") == fast
        assert switches() == before
    with pytest.raises(ValueError, match="'tf32'; it must be one of default, highest"):
        peer.build(cases.CASES["ecg_dense"], cases.config("ecg_dense"), precision="tf32")


@pytest.mark.skipif(not ON_CPU, reason="switches of a GPU would be set by intention")
def test_on_a_cpu_no_switch_is_touched():
    before = switches()
    with peer.computing("default"):
        assert switches() == before
    program = peer.build(cases.CASES["ecg_dense"], cases.config("ecg_dense"))
    assert program.precision == torch.get_float32_matmul_precision()


def test_settings_are_those_of_the_device(monkeypatch):
    dense, conv = cases.CASES["ecg_dense"], cases.CASES["mnist_conv"]
    monkeypatch.setattr(peer.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(peer, "find_spec", lambda name: name)
    monkeypatch.setattr(peer, "DEVICE", torch.device("cpu"))
    assert peer.settings(dense) == ["eager", "compile"]
    assert peer.settings(conv) == ["eager", "channels_last", "compile"]
    monkeypatch.setattr(peer, "DEVICE", torch.device("cuda"))
    assert peer.settings(dense) == list(peer.WAYS)
    found = peer.settings(conv)
    assert len(set(found)) == 2 * len(peer.WAYS)
    ways = [peer.way(name) for name in found]
    assert sum(way.channels_last for way in ways) == len(peer.WAYS)
    assert {way._replace(channels_last=False) for way in ways} == set(peer.WAYS.values())
    monkeypatch.setattr(peer.shutil, "which", lambda name: None)
    assert peer.settings(dense) == ["eager", "graph"]
    assert "channels_last" in peer.settings(conv)


SPEC = {"model": "ecg_dense", "dtype": "float32", "batch": 8, "threads": 1, "block": 8}


@pytest.mark.skipif(not ON_CPU, reason="a GPU runs every setting")
def test_a_setting_that_the_device_cannot_run_is_unavailable():
    with pytest.raises(programs.Unavailable, match="ecg_dense as graph on this device, only as ea"):
        programs.torch(SPEC | {"setting": "graph"}, {})


def test_a_recorded_program_competes_as_any_other(monkeypatch):
    monkeypatch.setattr(peer, "settings", lambda case: ["eager", "graph"])
    weights, x = start("ecg_dense"), cases.rows(cases.CASES["ecg_dense"], 8)
    found = {}
    for setting in ("eager", "graph"):
        program = programs.torch(SPEC | {"setting": setting, "precision": "highest"}, weights)
        steps = program.steps or 1
        program.train(2 * steps)
        program.score(1024)
        assert program.precision == "highest"
        found[setting] = steps, *program.gradients(x)
    (one, losses, gradients), (many, known, expected) = found["eager"], found["graph"]
    assert (one, many) == (1, peer.UNROLLED)
    assert losses == pytest.approx(known, rel=1e-5)
    assert_same(gradients, expected, 1e-6)


def test_scores_of_any_chunk_come_back_in_order():
    program = made("fmnist_denoise")
    x = program.prepare(cases.rows(cases.CASES["fmnist_denoise"], 20, seed=2))
    expected = program.score(x).cpu().numpy()
    np.testing.assert_allclose(program.scorer(x)(8), expected, rtol=1e-5)
    assert len(set(expected.round(7))) > 10


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("name", MODELS)
def test_compiled_steps_are_those_of_eager_ones(name, monkeypatch):
    """As on a GPU: what surrounds the network is compiled too."""
    if not any(way.mode for way in map(peer.way, peer.settings(cases.CASES[name]))):
        pytest.skip("there is no compiler")
    expected = after(made(name), name, STEPS)
    monkeypatch.setattr(peer, "COMPILE_ALL", True)
    x = cases.rows(cases.CASES[name], 16)
    for setting, way in peer.WAYS.items():
        if not way.mode:
            continue
        program = made(name, setting)
        train = program.trainer(*batches(program, name, 24))
        if setting == "compile":
            train(STEPS)
        else:
            train(0)
            with torch.compiler.set_stance("fail_on_recompile"):  # nor could a recording compile
                train(STEPS)
        assert apart(name, program.parameters(), expected) <= ROUNDED
        rows = program.prepare(x)
        scores = program.score(rows).cpu().numpy()
        np.testing.assert_allclose(program.scorer(rows)(8), scores, rtol=1e-5)
