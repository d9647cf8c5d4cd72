"""Comparisons with other frameworks: speed and equality. Not part of the installed package."""
