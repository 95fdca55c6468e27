"""Named combinations from the literature: which losses, layers and stages; a method has no training loop of its own."""
