"""A detector as one file that runs by itself.

`exporting` writes the archive, `to_onnx` a model for other runtimes, `card` the model card;
`loader` reads the archive with JAX and NumPy alone, and is copied into it: it uses nothing of
jaxae. The others use detectors and what these are made of. They do not know how a detector was
made: no training, no workflow, no command. Nothing is loaded here.
"""
