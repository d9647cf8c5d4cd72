"""Which device JAX finds, as one line of JSON: `python -m benchmarks.on_device.probe`.

In a process of its own, so that who asks holds none of the device's memory.
"""

import json


def found() -> dict:
    """The first device: what it is, and what JAX_PLATFORMS must say to have a CPU beside it."""
    import jax

    device = jax.devices()[0]
    name = device.platform
    if name == "gpu":
        name = "rocm" if "rocm" in device.client.platform_version.lower() else "cuda"
    return {
        "platform": device.platform,
        "kind": device.device_kind,
        "count": jax.device_count(),
        "platforms": "cpu" if name == "cpu" else f"{name},cpu",
    }


if __name__ == "__main__":
    print(json.dumps(found()))
