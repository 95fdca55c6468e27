"""Images: decoded, resized, turned."""
