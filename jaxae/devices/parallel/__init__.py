"""Devices: a batch shared out over them, in one process or in many.

`devices` says which there are, `placing` where arrays lie, `drivers` how a function runs on all of
them at once (`pmap` or `shard_map`: nobody else knows which), `programs` what they compute.

A state has no device axis: it is replicated, so that it has one shape on any number of devices and
moves between machines as it is. Only the plan of an epoch and the rows to score are split.
"""

from jaxae.devices.parallel.devices import Devices, choose, everywhere, here, initialize, on_host
from jaxae.devices.parallel.drivers import DRIVERS, driver, mapped, start, use
from jaxae.devices.parallel.placing import (
    at_home,
    fetch,
    on_one,
    place,
    placed_like,
    split,
    split_by,
)
from jaxae.devices.parallel.programs import (
    blocks,
    compiled_epoch,
    dispatch_rows,
    epoch_fn,
    is_padded,
    map_rows,
    rows_fn,
)

__all__ = [
    "DRIVERS", "Devices", "at_home", "blocks", "choose", "compiled_epoch", "dispatch_rows",
    "driver", "epoch_fn", "everywhere", "fetch", "here", "initialize", "is_padded", "map_rows",
    "mapped", "on_host", "on_one", "place", "placed_like", "rows_fn", "split", "split_by", "start",
    "use",
]  # fmt: skip
