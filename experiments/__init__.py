"""One short module per experiment: results (in the docstring), a configuration, and a main."""
