"""Students of another architecture than their teacher's: planned, and started from its embeddings."""
