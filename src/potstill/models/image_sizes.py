"""The size of the images that a processor makes or a configuration names."""

from __future__ import annotations

from typing import Any


def size_of(processor: Any) -> tuple[int, int] | None:
    """(H, W) of the images that a processor makes, or None where that depends on the image."""
    if getattr(processor, "do_center_crop", False) and (cropped := sides(getattr(processor, "crop_size", None))):
        return cropped
    return sides(getattr(processor, "size", None)) if getattr(processor, "do_resize", False) else None


def sides(size: Any) -> tuple[int, int] | None:
    """(height, width) out of one number, a pair, or a mapping; None where it says no size."""
    if isinstance(size, int):
        return size, size
    if isinstance(size, list | tuple) and len(size) == 2:
        return int(size[0]), int(size[1])
    height, width = (size.get("height"), size.get("width")) if hasattr(size, "get") else (None, None)
    return (int(height), int(width)) if height and width else None
