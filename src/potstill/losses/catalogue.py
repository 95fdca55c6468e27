"""The table of losses: every one by its name, built when asked for."""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import re
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.errors import RecipeError
from potstill.ground.code import brought, find_code, is_code, refuse_clash
from potstill.ground.tables import at, nearest, resolve

if TYPE_CHECKING:
    from torch import Tensor

    from potstill.losses.contract import Loss

GROUPS: dict[str, dict[str, str]] = {
    "response": {
        "ce": "potstill.losses.response:CE",
        "kl": "potstill.losses.divergences:KL",
        "reverse_kl": "potstill.losses.divergences:ReverseKL",
        "jsd": "potstill.losses.divergences:JSD",
        "skew_kl": "potstill.losses.divergences:SkewKL",
        "skew_reverse_kl": "potstill.losses.divergences:SkewReverseKL",
        "ttm": "potstill.losses.divergences:TTM",
        "tvd": "potstill.losses.response:TVD",
        "logit_mse": "potstill.losses.response:LogitMSE",
        "soft_ce": "potstill.losses.response:SoftCE",
        "bce": "potstill.losses.other_answers:BCE",
        "regression": "potstill.losses.other_answers:Regression",
        "bounded_regression": "potstill.losses.other_answers:BoundedRegression",
        "output_cosine": "potstill.losses.other_answers:OutputCosine",
        "similarity_kl": "potstill.losses.other_answers:SimilarityKL",
        "dkd": "potstill.losses.label_aware:DKD",
        "nkd": "potstill.losses.label_aware:NKD",
        "wsld": "potstill.losses.label_aware:WSLD",
        "tf_kd": "potstill.losses.label_aware:TfKD",
        "label_smoothing_kd": "potstill.losses.label_aware:LabelSmoothingKD",
        "probability_shift": "potstill.losses.label_aware:ProbabilityShift",
        "dist": "potstill.losses.distribution:DIST",
        "logit_std_kl": "potstill.losses.distribution:LogitStdKL",
        "mlkd": "potstill.losses.distribution:MLKD",
        "uld": "potstill.losses.distribution:ULD",
        "ctkd": "potstill.losses.distribution:CTKD",
        "probability_mse": "potstill.losses.response:ProbabilityMSE",
        "cs_kd": "potstill.losses.label_aware:CSKD",
    },
    "feature": {
        "hidden_mse": "potstill.losses.feature:HiddenMSE",
        "cosine": "potstill.losses.feature:Cosine",
        "embedding_mse": "potstill.losses.feature:EmbeddingMSE",
        "pkd": "potstill.losses.feature:PKD",
        "cwd": "potstill.losses.feature:CWD",
        "ghnd": "potstill.losses.feature:GHND",
        "mgd": "potstill.losses.feature:MGD",
        "fitnet": "potstill.losses.hints:FitNet",
        "ab": "potstill.losses.hints:AB",
        "ofd": "potstill.losses.hints:OFD",
        "vid": "potstill.losses.hints:VID",
        "ft": "potstill.losses.transfer:FT",
        "pad": "potstill.losses.transfer:PAD",
        "srd": "potstill.losses.transfer:SRD",
        "simkd": "potstill.losses.transfer:SimKD",
        "review_kd": "potstill.losses.review:ReviewKD",
        "routed": "potstill.losses.routing:Routed",
    },
    "attention": {
        "at": "potstill.losses.attention:AttentionTransfer",
        "tinybert_attention": "potstill.losses.attention:TinyBertAttention",
        "attention_kl": "potstill.losses.attention:AttentionKL",
        "minilm": "potstill.losses.attention:MiniLM",
        "minilm_v2": "potstill.losses.attention:MiniLMv2",
    },
    "relation": {
        "rkd_distance": "potstill.losses.batch_relation:RKDDistance",
        "rkd_angle": "potstill.losses.batch_relation:RKDAngle",
        "sp": "potstill.losses.batch_relation:SP",
        "cc": "potstill.losses.batch_relation:CC",
        "pkt": "potstill.losses.batch_relation:PKT",
        "gram": "potstill.losses.relation:Gram",
        "affinity": "potstill.losses.relation:Affinity",
        "nst": "potstill.losses.relation:NST",
        "ickd": "potstill.losses.relation:ICKD",
        "fsp": "potstill.losses.flow:FSP",
        "kd_svd": "potstill.losses.flow:KDSVD",
    },
    "contrast": {
        "crd": "potstill.losses.contrast:CRD",
        "info_nce": "potstill.losses.contrast:InfoNCE",
        "sskd": "potstill.losses.self_supervision:SSKD",
    },
    "gradient": {
        "jacobian": "potstill.losses.gradient:Jacobian",
    },
}
LOSSES: dict[str, str] = {name: place for group in GROUPS.values() for name, place in group.items()}


OWN = "potstill.losses.own"
LOSS, MODULE = "potstill.losses.contract:Loss", "torch.nn:Module"
GROUP = "potstill.losses"  # entry points of packages that bring losses
OF_DEFAULT = ("kl", "ce")  # of the default method, on classes
OF_TERMS = ("weight", "as")  # what a term says of a loss besides the loss's own options


def names() -> tuple[str, ...]:
    """Every loss of the catalogue, grouped by kind as in the table."""
    return tuple(LOSSES)


def is_known(name: str) -> bool:
    """Whether a loss of that name is in the catalogue, brought by an installed package, or code of the user's own."""
    return name in LOSSES or is_code(name) or name in brought(GROUP)


def find(name: str) -> type[Loss]:
    """The class of a loss; its attributes say what it is for. Of a function it is `own.FunctionLoss`.

    Raises:
        RecipeError: No such loss; names the nearest.
    """
    if name in LOSSES:
        loss_class: type[Loss] = resolve(LOSSES, name, kind="loss")
        return loss_class
    found = _own(name)
    if isinstance(found, type):
        return found
    if isinstance(found, at(LOSS)):
        return type(found)
    function_loss: type[Loss] = at(f"{OWN}:FunctionLoss")
    return function_loss


def _own(name: str) -> Any:
    """A loss that is not in the table: a class, or a function."""
    as_class = at(f"{OWN}:as_class")
    refuse_clash(GROUP, LOSSES)
    if is_code(name):
        return as_class(find_code(name), name)
    if name in brought(GROUP):
        return as_class(brought(GROUP)[name].load(), name)
    return resolve({**LOSSES, **dict.fromkeys(brought(GROUP), "")}, name, kind="loss")  # names the nearest


def function(name: str) -> Callable[..., Tensor]:
    """The pure function of a loss, which is in the module of its class under the loss's name."""
    pure: Callable[..., Tensor] = getattr(importlib.import_module(find(name).__module__), name)
    return pure


def defaults(name: str) -> dict[str, Any]:
    """The options of a loss and their defaults."""
    made = find(name) if name in LOSSES else _own(name)
    if isinstance(made, at(LOSS)):
        return {}
    if not isinstance(made, type):
        own: dict[str, Any] = at(f"{OWN}:options_of")(made)
        return own
    parameters = inspect.signature(made).parameters.values()
    return {each.name: each.default for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY}


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
    accepted = tuple(defaults(name))
    for option in options:
        if option not in accepted:
            guess = nearest(option, (*accepted, *OF_TERMS))
            raise RecipeError(
                f"loss {name!r} has no option {option!r}",
                f"{', '.join(accepted) or 'no options'}; and next to its name in a list of losses {', '.join(OF_TERMS)}",
                f"did you mean {guess!r}?" if guess else f"leave {option!r} out",
            )
    made = find(name) if name in LOSSES else _own(name)
    if isinstance(made, type):
        return made(**options)  # type: ignore[no-any-return]
    if isinstance(made, at(MODULE)):  # in memory: each one built learns by itself
        made = copy.deepcopy(made)
        if isinstance(made, at(LOSS)):
            return made  # type: ignore[no-any-return]
    made_of_function: Loss = at(f"{OWN}:FunctionLoss")(made, **(defaults(name) | options))
    return made_of_function


def overview() -> list[dict[str, str]]:
    """One row per loss: its group, its name, and what it does; from the source text, so that no module of losses is imported."""
    return [
        {"group": group, "name": name, "about": _sentence(_documented(place, name))}
        for group, losses in GROUPS.items()
        for name, place in losses.items()
    ] + [{"group": "of installed packages", "name": name, "about": point.value} for name, point in brought(GROUP).items()]


def describe(name: str) -> dict[str, Any]:
    """Everything about one loss: kind, what it does and reads of the teacher, options with their defaults, and source.

    Raises:
        RecipeError: No such loss; names the nearest.
    """
    loss = build(name)
    own, pure = (inspect.getdoc(each) or "" for each in (type(loss), function(name) if name in LOSSES else _own(name)))
    text = " ".join((own if "Source" in own else pure).split())
    source = text.replace("*", "").partition("Source: ")[2]
    return {
        "name": name,
        "kind": loss.kind,
        "about": _sentence(pure),
        "needs": ", ".join(loss.needs_teacher()) or "labels alone",
        "options": defaults(name),
        "source": re.split(r"(?<!\bal)\. ", source)[0].rstrip("."),
        "documentation": pure,
    }


def _documented(place: str, name: str) -> str:
    """The docstring of the function of a loss, else of its class, out of the text of its module."""
    module, _, loss_class = place.partition(":")
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    texts = _docstrings(Path(spec.origin))
    return texts.get(name) or texts.get(loss_class, "")


@cache
def _docstrings(file: Path) -> dict[str, str]:
    """Name → docstring of what a file defines."""
    defined = (each for each in ast.parse(file.read_text("utf-8")).body if isinstance(each, ast.FunctionDef | ast.ClassDef))
    return {each.name: ast.get_docstring(each) or "" for each in defined}


def _sentence(text: str) -> str:
    return " ".join(text.split()).split(". ")[0].rstrip(". ")
