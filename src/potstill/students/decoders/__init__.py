"""Students cut out of decoders: planned, measured, copied."""
