"""Members and batches laid out over devices, in one process or in several.

`devices` lists and chooses devices, `layout` assigns members to them, `placing` puts arrays on
them, `drivers` runs a function on all at once (`pmap` or `shard_map`: no other module knows which),
`programs` holds what they compute.

The state of a single run is replicated, without a device axis; that of a grid is split over groups
of devices, see `Layout`. A saved state has the same shape for any number of devices.
"""

from jaxae.devices.parallel.devices import (
    Devices,
    all_devices,
    choose,
    initialize,
    local_positions,
    on_host,
)
from jaxae.devices.parallel.drivers import DRIVERS, driver, mapped, start, use
from jaxae.devices.parallel.layout import Layout, Plan
from jaxae.devices.parallel.placing import (
    fetch,
    local_copy,
    place,
    placed_like,
    split,
    split_by,
)
from jaxae.devices.parallel.programs import (
    blocks,
    compiled_epoch,
    epoch_fn,
    is_padded,
    map_rows,
    rows_fn,
    until,
)

__all__ = [
    "DRIVERS", "Devices", "Layout", "Plan", "all_devices", "blocks", "choose", "compiled_epoch",
    "driver", "epoch_fn", "fetch", "initialize", "is_padded", "local_copy", "local_positions",
    "map_rows", "mapped", "on_host", "place", "placed_like", "rows_fn", "split", "split_by",
    "start", "until", "use",
]  # fmt: skip
