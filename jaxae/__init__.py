"""Anomaly detection with autoencoders in JAX and Flax."""
