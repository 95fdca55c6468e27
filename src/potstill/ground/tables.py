"""Plug-in tables: a literal dict of name → "module:attribute", resolved when asked for."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from potstill.errors import RecipeError

Entry = TypeVar("Entry")


SYNONYMS: Mapping[str, str] = {
    # networks
    **dict.fromkeys(("lstm", "rnn", "gru", "bigru"), "bilstm"),
    **dict.fromkeys(("kimcnn", "cnntext", "charcnn"), "textcnn"),
    **dict.fromkeys(("word2vec", "glove", "fasttext", "model2vec", "bow"), "static"),
    **dict.fromkeys(("convnet", "conv"), "cnn"),
    # tasks
    **dict.fromkeys(("ner", "pos", "tagging", "tokens"), "token-classification"),
    **dict.fromkeys(("qa", "squad", "extractiveqa"), "question-answering"),
    **dict.fromkeys(("sentiment", "sequenceclassification", "classification", "nli"), "text-classification"),
    **dict.fromkeys(("embedding", "embeddings", "sentencetransformers"), "sentence-embeddings"),
    **dict.fromkeys(("vision", "images"), "image-classification"),
    **dict.fromkeys(("multilabelclassification", "tags"), "multi-label"),
    "sts": "regression",
    # hardware and numbers
    **dict.fromkeys(("gpu", "cuda", "nvidia", "tensorrt"), "nvidia_gpu"),
    **dict.fromkeys(("x86", "intel", "arm"), "cpu"),
    **dict.fromkeys(("8bit", "i8", "qint8"), "int8"),
    **dict.fromkeys(("half", "float16", "16bit"), "fp16"),
    **dict.fromkeys(("off", "no"), "none"),
    **dict.fromkeys(("float32", "full"), "fp32"),
    **dict.fromkeys(("bfloat16",), "bf16"),
    # methods and losses
    **dict.fromkeys(("hinton", "vanilla", "standard", "logits"), "kd"),
    **dict.fromkeys(("attention", "attentiontransfer"), "at"),
    **dict.fromkeys(("crossentropy", "xent", "nll"), "ce"),
    **dict.fromkeys(("kld", "kldiv", "kldivergence", "forwardkl"), "kl"),
    **dict.fromkeys(("rkl", "reversekld"), "reverse_kl"),
    **dict.fromkeys(("mse", "l2"), "logit_mse"),
    # keys of a recipe
    **dict.fromkeys(("lr", "learningrate"), "learning_rate"),
    **dict.fromkeys(("numepochs", "numtrainepochs"), "epochs"),
    **dict.fromkeys(("perdevicetrainbatchsize", "trainbatchsize", "bs"), "batch_size"),
    **dict.fromkeys(("maxlength", "maxseqlength", "maxlen", "modelmaxlength"), "max_tokens"),
    **dict.fromkeys(("sparsity", "compression"), "ratio"),
    **dict.fromkeys(("dataset", "trainfile"), "data"),
    **dict.fromkeys(("tau", "t"), "temperature"),
    "device": "target",
}
"""Words of the field, without capitals and signs → the name that stands for them here."""
SHORTEST_PART = 3


def nearest(name: str, known: Iterable[str], cutoff: float = 0.5) -> str | None:
    """The known name that is meant by `name`: the same but for capitals and signs, a synonym, or the closest in spelling.

    Args:
        cutoff: Least similarity of the spelling, 0 to 1.

    Returns:
        None where none is close.

    Example:
        >>> nearest("TinyBert", ["kd", "tinybert"]), nearest("gpu", ["cpu", "nvidia_gpu"]), nearest("lstm", ["cnn", "bilstm"])
        ('tinybert', 'nvidia_gpu', 'bilstm')
    """
    by_letters = {_letters(each): each for each in known}
    letters = _letters(name)
    if letters in by_letters:
        return by_letters[letters]
    if SYNONYMS.get(letters) in by_letters.values():
        return SYNONYMS[letters]
    matches = difflib.get_close_matches(letters, list(by_letters), n=1, cutoff=cutoff)
    if matches:
        return by_letters[matches[0]]
    around = [whole for whole in by_letters if letters in whole] if len(letters) >= SHORTEST_PART else []
    return by_letters[around[0]] if len(around) == 1 else None


def _letters(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum()) or name


def resolve(table: Mapping[str, str], name: str, *, kind: str) -> Any:
    """Import and return the object that `table` names.

    Args:
        table: Name → ``"package.module:attribute"``.
        name: The name asked for.
        kind: What the table lists, for the error message ("loss", "task", …).

    Raises:
        RecipeError: No such name; the message suggests the nearest one.
    """
    return at(look_up(table, name, kind=kind))


def at(place: str) -> Any:
    """What is at ``"package.module:attribute"``, for a room that names plug-ins and may not import them."""
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)


def look_up(table: Mapping[str, Entry], name: str, *, kind: str) -> Entry:
    """The entry of a table; arguments and errors as in `resolve`."""
    if name not in table:
        guess = nearest(name, table)
        raise RecipeError(
            f"{kind} {name!r} does not exist",
            ", ".join(sorted(table)),
            f"did you mean {guess!r}?" if guess else "",
        )
    return table[name]
