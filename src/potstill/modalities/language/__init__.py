"""Rows of language models: conversations and documents, as tokens of which some are to be predicted."""
