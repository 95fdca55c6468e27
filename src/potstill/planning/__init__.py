"""Planning: recipes checked, forecast and previewed before anything is trained."""
