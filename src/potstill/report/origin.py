"""Where a student comes from, in names that hold on any machine: hub ids of teachers and data, licence and languages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def origin_of(teachers: Sequence[str], sources: Sequence[str]) -> dict[str, Any]:
    """What is known of teachers and data, by the names of fields of `report.metrics.Metrics`; nothing is guessed.

    Args:
        teachers: As a recipe with whole paths names them; a name that is no path and has the form of a hub id is one.
        sources: Data, likewise; a hub id may be followed by a configuration, ``owner/name:config``.

    Returns:
        ``base_models`` and ``datasets``, the hub ids among them; ``license``, where the cards of all teachers name the same one;
        ``languages``, those that all these cards name.
    """
    cards = [_card_of(name) for name in dict.fromkeys(teachers)]
    licenses = [card.get("license") for card in cards] or [None]
    languages = [_languages(card) for card in cards] or [[]]
    return {
        "base_models": [name for name in dict.fromkeys(teachers) if _is_hub_id(name)],
        "datasets": [name for name in dict.fromkeys(source.partition(":")[0] for source in sources) if _is_hub_id(name)],
        "license": licenses[0] if isinstance(licenses[0], str) and licenses.count(licenses[0]) == len(licenses) else None,
        "languages": [one for one in languages[0] if all(one in others for others in languages[1:])],
    }


def _is_hub_id(name: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not Path(name).exists()


def _languages(card: Mapping[str, Any]) -> list[str]:
    named = card.get("language")
    return [one for one in (named if isinstance(named, list) else [named]) if isinstance(one, str)]


def _card_of(name: str) -> Mapping[str, Any]:
    """The head of a model's card; empty where there is none that can be read."""
    import yaml
    from huggingface_hub import hf_hub_download, metadata_load
    from huggingface_hub.errors import HfHubHTTPError

    try:
        file = Path(hf_hub_download(name, "README.md")) if _is_hub_id(name) else Path(name) / "README.md"
        return metadata_load(file) or {}
    except (HfHubHTTPError, OSError, ValueError, yaml.YAMLError):
        return {}
