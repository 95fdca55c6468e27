"""Models of any origin: loaded, frozen, read at their inner values."""
