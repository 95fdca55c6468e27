"""Stages of runs whose models predict the next token."""
