"""One thin script per experiment: a record in its docstring, a configuration, and a main."""
