"""A teacher's distributions over the next token, kept on disk by document and position."""
