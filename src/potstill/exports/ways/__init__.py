"""Ways of making a smaller artefact, and the choice between them by measurement."""
