"""Exporting a detector as one file that runs by itself.

`exporting` writes the archive: `program` is its compiled part, `contents` its manifest and code,
`card` its model card. `checking` says whether an archive is what it says, `signing` by whose key it
was signed. `loader` reads it with JAX and NumPy alone; a copy of it is in the archive, so it uses
nothing of jaxae. `to_onnx` writes a model for other runtimes. They use detectors and their parts,
but do not know how a detector was trained: no training, workflow or command. This module imports
nothing.
"""
