"""A detector as one file that runs by itself.

`exporting` writes the archive, `to_onnx` the same for other runtimes, `card` what is told of it;
`loader` reads it with JAX and NumPy alone, and is copied into every archive: it uses nothing of
jaxae. The others use detectors and what these are made of. They do not know how a detector came
about: no training, no workflow, no command. Nothing is loaded here.
"""
