"""Answers: what a model's outputs mean, how labels are read, how answers are learned and judged."""
