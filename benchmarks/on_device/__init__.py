"""The stages of `benchmarks.accelerator_check` and the format of their results."""
