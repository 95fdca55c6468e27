"""Plots of the report as SVG, one file per subject."""
