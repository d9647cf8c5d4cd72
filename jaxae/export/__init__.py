"""Exporting a detector as one file that runs by itself.

`exporting` writes the archive, `to_onnx` a model for other runtimes, `card` the model card;
`loader` reads the archive with JAX and NumPy alone; a copy of it is in the archive, so it uses
nothing of jaxae. The others use detectors and their parts. They do not know how a detector was
trained: no training, workflow or command. This module imports nothing.
"""
