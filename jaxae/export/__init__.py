"""A detector as one file that runs without jaxae.

`exporting` writes the archive, `card` its model card, and `to_onnx` an ONNX model for other
runtimes. `loader` reads the archive with JAX and NumPy alone; it is copied into every archive, so
it imports nothing of jaxae. The others use detectors and their parts. They do not know how a
detector came about: no training, no workflow, no command. Nothing is loaded here.
"""
