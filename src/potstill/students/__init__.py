"""The small model: planned from a budget, cut out of the teacher, with a vocabulary that fits the data."""
