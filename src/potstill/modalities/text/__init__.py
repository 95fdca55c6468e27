"""Texts: words, tokens, segments, windows, and rows made out of rows."""
