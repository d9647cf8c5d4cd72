"""The meeting of a run's processes at process 0, over TCP, before JAX connects them.

JAX aborts a process whose others do not come, without saying who is missing. Here process 0 listens
at the coordinator's address until all have come; then every process knows that all are there, or
which one is missing. The connections stay open: the processes exchange what they are about to do,
and notice at once if one has stopped.
"""

import contextlib
import json
import os
import selectors
import socket
import time
from collections.abc import Iterable
from typing import Any

from jaxae.errors import UserError, words

_PAUSE = 0.1  # seconds between two attempts
_PATIENCE = 2.0  # seconds in which whoever connects has to say who it is
_ATTEMPTS = 50
_STOPPED = "process 0 stopped before all had come, and says why in its own output"


class Meeting:
    """The open connections: process 0 has one to each other process, which have one to process 0.

    Args:
      index: the number of this process.
      links: the connections, by the number of the process at the other end.
      patience: seconds that process 0 waits at its end for others that prepare to train.
    """

    def __init__(self, index: int, links: dict[int, "_Link"], patience: float):
        self._index, self._links, self._patience = index, links, patience

    def share(self, said: str) -> list[str]:
        """Tell all processes something; returns what each says, the same in all processes.

        It takes as long as the slowest process needs to call it.

        Raises:
          UserError: a process has stopped; the message names it.
        """
        if self._index:
            self._links[0].say(said)
            answer = self._links[0].hear(None) or {"lost": [0]}
        else:
            answer = self._heard(said)
            for link in self._links.values():
                link.say(answer)
        if answer["lost"]:
            raise UserError(
                f"{_named(answer['lost'])} stopped before training, and says why in its own "
                "output; then start all again"
            )
        self._patience = _PATIENCE
        return answer["said"]

    def leave(self) -> None:
        """Tell the others that this process ends; process 0 ends after them, if they do soon.

        JAX aborts the others when process 0 ends; until then they can say why they end.
        """
        end = time.monotonic() + self._patience
        for link in self._links.values():
            link.end()
        for link in self._links.values() if not self._index else ():
            while link.hear(max(0.01, end - time.monotonic())) is not None:
                pass

    def _heard(self, said: str) -> dict[str, list]:
        """What all processes say to process 0, or the first that has stopped."""
        heard = {0: said}
        with selectors.DefaultSelector() as waiting:
            for index, link in self._links.items():
                waiting.register(link.connection, selectors.EVENT_READ, index)
            while waiting.get_map():
                for key, _ in waiting.select():
                    waiting.unregister(key.fileobj)
                    message = self._links[key.data].hear(None)
                    if message is None:
                        return {"lost": [key.data]}
                    heard[key.data] = message
        return {"lost": [], "said": [heard[index] for index in sorted(heard)]}


class _Link:
    """A connection that carries one JSON value per line."""

    def __init__(self, connection: socket.socket):
        self.connection, self._lines = connection, connection.makefile("rb")

    def say(self, message: Any) -> None:
        """Send a message; whether it arrives shows when the answer is awaited."""
        with contextlib.suppress(OSError):
            self.connection.sendall(json.dumps(message).encode() + b"\n")

    def hear(self, seconds: float | None) -> Any:
        """Wait for a message; None: none came in time, the other end closed, or it is not JSON."""
        self.connection.settimeout(seconds)
        try:
            return json.loads(self._lines.readline())
        except (OSError, ValueError):
            return None

    def is_open(self) -> bool:
        """Whether the other end, from which no message is expected, is still there."""
        self.connection.setblocking(False)
        try:
            return bool(self.connection.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            self.connection.setblocking(True)

    def end(self) -> None:
        """Say that nothing more will come."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the connection."""
        self._lines.close()
        self.connection.close()


def meet(address: str, index: int, count: int, timeout: float) -> Meeting:
    """Wait until all processes of a run have come to process 0.

    Args:
      address: HOST:PORT of process 0, where nobody listens afterwards.
      index: the number of this process.
      count: the number of processes.
      timeout: seconds to wait.

    Raises:
      UserError: a process is missing, two have one number or other counts, process 0 cannot be
        reached, or the port is in use.
    """
    return _go_to(address, index, count, timeout) if index else _receive(address, count, timeout)


def _receive(address: str, count: int, timeout: float) -> Meeting:
    """What process 0 does."""
    end, links = time.monotonic() + timeout, dict[int, _Link]()
    with _listening(address) as listener:
        while len(links) < count - 1:
            links = {index: link for index, link in links.items() if link.is_open()}
            if (left := end - time.monotonic()) <= 0:
                missing = _named(sorted({*range(1, count)} - links.keys()))
                raise _refused(
                    links.values(),
                    f"{missing} of {count} did not come to {address} within {timeout:g} s; start "
                    "all at once, or set a longer --hosts.timeout",
                )
            listener.settimeout(min(left, _PAUSE))
            try:
                link = _Link(listener.accept()[0])
            except OSError:  # nobody came, or has left again
                continue
            guest = link.hear(min(left, _PATIENCE))
            if not _is_guest(guest):
                link.close()
            elif problem := _problem(guest, links, count):
                raise _refused([*links.values(), link], problem)
            else:
                link.say("wait")
                links[guest["index"]] = link
    for link in links.values():
        link.say("go")
    return Meeting(0, links, timeout)


def _is_guest(message: Any) -> bool:
    """Whether a process of some run said this, and no other program."""
    is_whole = isinstance(message, dict) and message.keys() == {"index", "count"}
    return is_whole and all(isinstance(value, int) and value > 0 for value in message.values())


def _problem(guest: dict[str, int], links: dict[int, _Link], count: int) -> str:
    """Why a process does not belong to this run; "" if it does."""
    index = guest["index"]
    if guest["count"] != count:
        return (
            f"process {index} was started with --hosts.count {guest['count']}, but process 0 with "
            f"--hosts.count {count}; start all with the same"
        )
    if index in links:
        return (
            f"two processes were started with --hosts.index {index}; give each its own, from 0 to "
            f"{count - 1}, and each run its own --hosts.coordinator"
        )
    return ""


def _refused(links: Iterable[_Link], problem: str) -> UserError:
    """The error for a problem, which is sent to all who have come."""
    for link in links:
        link.say({"refused": problem})
        link.close()
    return UserError(problem)


def _listening(address: str) -> socket.socket:
    """A socket that listens where JAX's coordinator will."""
    default = f"[::]:{address.rpartition(':')[2]}"  # as in `jax.distributed.initialize`
    bound = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS", default)
    host, _, port = bound.rpartition(":")
    both = host == "[::]" and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both or ":" in host.replace("[::]", "") else socket.AF_INET
    try:
        place = (host.replace("[::]", "").strip("[]"), int(port))
        return socket.create_server(place, family=family, dualstack_ipv6=both, backlog=1024)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise UserError(
            f"process 0 cannot listen at {bound} ({reason}); another run may use the port: set "
            "another in --hosts.coordinator HOST:PORT for all processes"
        ) from None


def _go_to(address: str, index: int, count: int, timeout: float) -> Meeting:
    """What every other process does."""
    host, _, port = address.rpartition(":")
    end, why = time.monotonic() + timeout, "no answer"
    while (left := end - time.monotonic()) > 0:
        try:
            link = _Link(socket.create_connection((host.strip("[]"), int(port)), left))
        except OSError as error:
            why = words(error)
        else:
            link.say({"index": index, "count": count})
            answer = link.hear(left)
            if answer == "wait":  # process 0 decides when it has waited long enough
                answer = link.hear(timeout + _PATIENCE) or {"refused": _STOPPED}
            match answer:
                case "go":
                    _await_jax(link.connection.getpeername())
                    return Meeting(index, {0: link}, timeout)
                case {"refused": problem}:
                    link.close()
                    raise UserError(problem)
            link.close()
            why = "something else answers there"
        time.sleep(min(_PAUSE, left))
    raise UserError(
        f"process {index} did not find process 0 at {address} within {timeout:g} s ({why}); start "
        "process 0 at the same time, on that host, and all with the same --hosts.coordinator"
    )


def _await_jax(address: tuple) -> None:
    """Wait until JAX listens at process 0; after an attempt that fails it waits a second."""
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(OSError), socket.create_connection(address[:2], _PATIENCE):
            return
        time.sleep(1 / _ATTEMPTS)


def _named(indices: list[int]) -> str:
    """The words "process 3", or "processes 1, 2 and 3"."""
    *most, last = map(str, indices)
    return f"processes {', '.join(most)} and {last}" if most else f"process {last}"
