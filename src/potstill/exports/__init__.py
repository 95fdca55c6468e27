"""Exports: a model as a file, checked, opened, timed."""
