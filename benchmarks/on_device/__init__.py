"""The parts of `benchmarks.accelerator_check`: what is asked of a device, and what it answered."""
