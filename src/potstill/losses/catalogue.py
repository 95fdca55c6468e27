"""The table of losses: every one by its name, built when asked for."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from potstill.errors import RecipeError
from potstill.table import nearest, resolve

if TYPE_CHECKING:
    from potstill.losses.contract import Loss

LOSSES: dict[str, str] = {
    # response
    "ce": "potstill.losses.response:CE",
    "kl": "potstill.losses.response:KL",
    "reverse_kl": "potstill.losses.response:ReverseKL",
    "jsd": "potstill.losses.response:JSD",
    "skew_kl": "potstill.losses.response:SkewKL",
    "skew_reverse_kl": "potstill.losses.response:SkewReverseKL",
    "tvd": "potstill.losses.response:TVD",
    "logit_mse": "potstill.losses.response:LogitMSE",
    "soft_ce": "potstill.losses.response:SoftCE",
    # feature
    "hidden_mse": "potstill.losses.feature:HiddenMSE",
    "cosine": "potstill.losses.feature:Cosine",
    "embedding_mse": "potstill.losses.feature:EmbeddingMSE",
    # attention
    "at": "potstill.losses.attention:AttentionTransfer",
    "tinybert_attention": "potstill.losses.attention:TinyBertAttention",
    "attention_kl": "potstill.losses.attention:AttentionKL",
    # relation
    "gram": "potstill.losses.relation:Gram",
}


def names() -> tuple[str, ...]:
    """Every loss of the catalogue, grouped by kind as in the table."""
    return tuple(LOSSES)


def defaults(name: str) -> dict[str, Any]:
    """The options of a loss and their defaults.

    Raises:
        RecipeError: No such loss.
    """
    parameters = inspect.signature(resolve(LOSSES, name, kind="loss")).parameters
    return {key: parameter.default for key, parameter in parameters.items()}


def build(name: str, **options: Any) -> Loss:
    """A loss by its catalogue name.

    Args:
        name: One of `names()`.
        options: Options of that loss; its docstring lists them.

    Raises:
        RecipeError: No such loss, no such option, or a value out of range; names the nearest valid one.

    Example:
        >>> build("kl", temperature=4.0).temperature
        4.0
    """
    loss_class = resolve(LOSSES, name, kind="loss")
    accepted = tuple(inspect.signature(loss_class).parameters)
    for option in options:
        if option not in accepted:
            guess = nearest(option, accepted)
            raise RecipeError(
                f"loss {name!r} has no option {option!r}",
                ", ".join(accepted) or "no options",
                f"did you mean {guess!r}?" if guess else f"leave {option!r} out",
            )
    loss: Loss = loss_class(**options)
    return loss
