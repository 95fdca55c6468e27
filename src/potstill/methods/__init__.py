"""Named combinations from the literature: which losses, layers and phases; a method has no training loop of its own."""
