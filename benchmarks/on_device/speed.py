"""Training and scoring speed of jaxae, plain Flax and PyTorch, measured in turns.

JAX has one process and PyTorch two, one of them for settings that use its compiler. The processes
prepare concurrently. Then one works while the others wait, in rounds with a random order. A
competitor is timed only if it computes the same losses and gradients as jaxae.
"""

import contextlib
import random
import tempfile
import threading
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import throughput
from benchmarks.cases import CASES, rows
from benchmarks.on_device.part import Order
from benchmarks.on_device.players import Player
from benchmarks.on_device.results import Record, speeds
from benchmarks.on_device.stages import Clock

# Choices of `jaxae.devices.tuning` that matter on accelerators; "as is" = the method's defaults.
VARIANTS: dict[str, dict[str, Any]] = {
    "as is": {},
    "graphs, unroll 4": {"graphs": True, "unroll": 4},
    "plain": {"graphs": False, "unroll": 1},
    "unroll 4": {"graphs": False, "unroll": 4},
    "graphs": {"graphs": True, "unroll": 1},
}
PRECISION = "default"  # of what is timed: TF32 on NVIDIA
# Expected seconds to prepare a setting, until they have been measured.
_GUESSED = {"jax": 35.0, "torch": 8.0, "torch compiler": 25.0}
_LEAST = 15.0  # seconds for a model
_GENEROUS = 1.5  # a model may start new settings until this multiple of its share of the time
REFERENCE = "jaxae as is"  # what the others must agree with
PLAYERS = ("jax", "torch", "torch compiler")  # each a framework, in a process of its own


class Sizes(NamedTuple):
    """How much is measured.

    Attributes:
      rounds: rounds of every competitor.
      train_s: seconds of training in each round.
      score_s: seconds of scoring in each round, for each chunk size.
      chunks: rows to score at a time; the fastest counts.
      batch: batch size of all models; 0 = the experiments' own.
      block: steps in one dispatch of jaxae; 0 = those of `benchmarks.cases`.
      models: largest number of models to measure.
    """

    rounds: int
    train_s: float
    score_s: float
    chunks: tuple[int, ...]
    batch: int
    block: int
    models: int

    @property
    def turn_s(self) -> float:
        """Seconds of one competitor in one round."""
        return self.train_s + self.score_s * len(self.chunks)


FULL = Sizes(3, 0.2, 0.04, (1024, 4096, 16_384), 0, 0, len(CASES))
SMALL = Sizes(2, 0.05, 0.02, (1024,), 16, 16, 1)


class Competitor(NamedTuple):
    """A setting of a framework; its name is also that of its program."""

    framework: str
    setting: str
    spec: dict

    @property
    def name(self) -> str:
        """Framework and setting."""
        return f"{self.framework} {self.setting}"

    @property
    def player(self) -> str:
        """The process that runs it, one of `PLAYERS`."""
        if self.framework == "torch":
            return "torch compiler" if _is_slow(self.setting) else "torch"
        return "jax"


def main(order: Order) -> None:
    """Measure model by model while time permits; record those for which there is no time."""
    sizes = SMALL if order.rehearsal else FULL
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        able = PLAYERS if find_spec("torch") else PLAYERS[:1]
        if able != PLAYERS:
            order.journal.write("prepare", framework="torch", unavailable="torch is not installed")
        players = {name: stack.enter_context(Player(name.split()[0])) for name in able}
        _models(order, sizes, players, folder)


def _models(order: Order, sizes: Sizes, players: dict[str, Player], folder: Path) -> None:
    costs: dict[str, float] = {}
    models = order.models[: sizes.models]
    for i, model in enumerate(models):
        if not order.clock.allows(_LEAST):
            order.journal.write("train", model, no_time=f"{order.clock.left():.0f} s are left")
            continue
        share = _GENEROUS * order.clock.left() / (len(models) - i)
        until = time.time() + min(share, order.clock.left())
        _Duel(order, sizes, players, folder, model, costs, Clock(until)).fight()


def specs(model: str, sizes: Sizes) -> dict[str, Any]:
    """The specification that all competitors on a model share."""
    found: dict[str, Any] = {"model": model, "dtype": "float32", "precision": PRECISION}
    batch = sizes.batch or throughput.batch_size(model)
    found |= {"batch": batch, "devices": 1}
    return found | ({"block": sizes.block} if sizes.block else {})


def of_jax(common: dict) -> list[list[Competitor]]:
    """The variants of jaxae, and plain Flax, in groups that are prepared concurrently."""
    found = [
        Competitor("jaxae", name, common | {"framework": "jaxae", "tuning": tuned})
        for name, tuned in VARIANTS.items()
    ]
    flax = Competitor("flax", "jitted step", common | {"framework": "flax"})
    return [found[:2], [flax, *found[2:]]]


def of_torch(common: dict, settings: Sequence[str]) -> list[Competitor]:
    """PyTorch's settings with one thread, the most promising first."""
    quick_first = sorted(settings, key=lambda name: (_is_slow(name), "graph" not in name))
    return [
        Competitor("torch", name, common | {"framework": "torch", "setting": name,
                                            "threads": 1})
        for name in quick_first
    ]  # fmt: skip


def _is_slow(setting: str) -> bool:
    """Whether a setting uses PyTorch's compiler, which takes up to half a minute."""
    return "compile" in setting or "reduce" in setting


class _Duel:
    """One model: all competitors are prepared and checked, then measured."""

    def __init__(self, order: Order, sizes: Sizes, players: dict[str, Player], folder: Path,
                 model: str, costs: dict[str, float], clock: Clock):  # fmt: skip
        self.order, self.sizes, self.players, self.model = order, sizes, players, model
        self.clock = clock  # for further settings; the first ones may use all remaining time
        self.costs, self.common = costs, specs(model, sizes)
        self.weights, self.rows = folder / f"{model}.npz", folder / f"{model}.npy"
        self.folder = folder
        self.ready: dict[str, tuple[Competitor, dict]] = {}

    def fight(self) -> None:
        """Prepare all competitors concurrently, check and time them."""
        np.save(self.rows, rows(CASES[self.model], throughput.GATE_ROWS, seed=3))
        told = self.players["jax"].ask(do="weights", spec=self.common, out=str(self.weights))
        if "error" in told:
            self.order.journal.write("train", self.model, error=told["error"])
            return
        # XLA compiles in many threads at once; PyTorch is given one setting after another.
        turns = {"jax": of_jax(self.common)}
        for one in self._torch_settings() if "torch" in self.players else ():
            turns.setdefault(one.player, []).append([one])
        threads = [threading.Thread(target=self._prepare, args=turn) for turn in turns.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._time(self._checked())
        for player in self.players.values():
            player.ask(do="forget")

    def _torch_settings(self) -> list[Competitor]:
        known = self.players["torch"].ask(do="settings", model=self.model)
        if "error" in known:
            self.order.journal.write("prepare", self.model, framework="torch", **known)
            return []
        return of_torch(self.common, known["settings"])

    def _prepare(self, player: str, turns: list[list[Competitor]]) -> None:
        """Prepare competitors in turn, while time remains to measure them as well."""
        for i, competitors in enumerate(turns):
            clock = self.clock if i else self.order.clock
            measured = len(self.ready) + len(competitors)
            to_measure = 1.3 * measured * self.sizes.rounds * self.sizes.turn_s
            name = competitors[0].name
            known = self.costs.get(name)
            guessed = known or _GUESSED[player] * (0.2 if self.order.rehearsal else 1.0)
            if not clock.allows(guessed + to_measure + 2):
                left = f"{max(0.0, clock.left()):.0f} s are left, {guessed:.0f} needed to prepare"
                for one in competitors:
                    self._say("train", one, no_time=left)
                continue
            began = time.perf_counter()
            orders = [self._orders(one) for one in competitors]
            told = self.players[player].ask(do="make_all", orders=orders)
            self.costs[name] = time.perf_counter() - began
            answers = [told] * len(competitors) if "error" in told else told["answers"]
            for one, found in zip(competitors, answers, strict=True):
                if "error" in found or "unavailable" in found:
                    self._say("train", one, **found)
                else:
                    self.ready[one.name] = one, found

    def _orders(self, one: Competitor) -> list[dict]:
        """Requests: build the program, compute losses and gradients, compile the rest."""
        orders: list[dict] = [
            {"do": "prepare", "spec": one.spec, "weights": str(self.weights)},
            {"do": "gate", "rows": str(self.rows), "out": str(self._gradients(one))},
            {"do": "warm_up", "chunks": self.sizes.chunks},
        ]
        return [order | {"name": one.name} for order in orders]

    def _gradients(self, one: Competitor) -> Path:
        return self.folder / f"{self.model}-{one.name}.npz"

    def _checked(self) -> list[Competitor]:
        """The competitors with jaxae's losses and gradients; the others are recorded as failed."""
        found = []
        ours = self._found(REFERENCE)
        for one, known in self.ready.values():
            if ours is None:
                self._say("train", one, error="jaxae as is could not be prepared: nothing to check")
                continue
            try:
                label = {"framework": one.framework, "setting": one.setting, "dtype": "float32"}
                gate = throughput.check(ours, self._found(one.name), label | {"model": self.model})
            except RuntimeError as error:
                self._say("train", one, error=str(error)[:300])
                continue
            named = {"gate": gate, "precision_as_named": known["precision"]}
            self._say("prepare", one, **known | named | {"precision": PRECISION})
            found.append(one)
        return found

    def _found(self, name: str) -> tuple[dict, dict] | None:
        """Losses and gradients of a competitor; None if it is not ready."""
        if name not in self.ready:
            return None
        one, known = self.ready[name]
        with np.load(self._gradients(one)) as stored:
            return known["losses"], dict(stored)

    def _time(self, able: list[Competitor]) -> None:
        """Run the rounds in random order, then write the results."""
        draw = random.Random(0)
        found: dict[tuple[str, str], list[float]] = {}
        for _ in range(self.sizes.rounds):
            for one in draw.sample(able, len(able)):
                if not self.order.clock.allows(self.sizes.turn_s + 1):
                    break
                self._turn(one, found)
        for one in able:
            self._write(one, found)

    def _turn(self, one: Competitor, found: dict) -> None:
        player = self.players[one.player]
        told = player.ask(do="train", name=one.name, seconds=self.sizes.train_s)
        turns = [("train", told)]
        for chunk in self.sizes.chunks:
            told = player.ask(do="score", name=one.name, seconds=self.sizes.score_s, chunk=chunk)
            turns.append((f"score {chunk}", told))
        for what, told in turns:
            found.setdefault((one.name, what), []).append(told.get("per_s", told))

    def _write(self, one: Competitor, found: dict) -> None:
        units = {"train": "steps/s", "score": "rows/s"}
        for what, unit in units.items():
            rounds = {key[1]: of for key, of in found.items()
                      if key[0] == one.name and key[1].startswith(what)}  # fmt: skip
            errors = [of for each in rounds.values() for of in each if isinstance(of, dict)]
            if errors or not rounds:
                self._say(what, one, **(errors[0] if errors else {"no_time": "none to measure"}))
                continue
            best = max(rounds, key=lambda key: speeds(rounds[key], unit)["median"])
            medians = {key.split()[1]: speeds(of, unit)["median"] for key, of in rounds.items()
                       if what == "score"}  # fmt: skip
            extra = {"chunk": int(best.split()[1]), "by_chunk": medians} if medians else {}
            self._say(what, one, **speeds(rounds[best], unit), **extra)

    def _say(self, what: str, one: Competitor, **values: Any) -> Record:
        values = {"framework": one.framework, "batch": one.spec["batch"]} | values
        versions = self.order.journal.common["versions"] | values.pop("versions", {})
        values |= {"versions": versions}
        return self.order.journal.write(what, self.model, one.setting, **values)
