"""Modalities: what a row is, one folder each."""
