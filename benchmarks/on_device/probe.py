"""Print the device that JAX finds as one line of JSON: `python -m benchmarks.on_device.probe`.

This runs in a separate process, so that the caller holds none of the device's memory.
"""

import json


def found() -> dict:
    """The first device, and the value of JAX_PLATFORMS that adds a CPU to it."""
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
