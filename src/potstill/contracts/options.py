"""Base of the option classes that a part of Potstill brings with it, and the types of their values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import core_schema

from potstill.ground.tables import at, nearest


def share(value: Any) -> Any:
    """A share that is written in per cent, as a number; everything else as it is.

    Example:
        >>> share("90%"), share("0.5"), share(0.5)
        (0.9, '0.5', 0.5)
    """
    if isinstance(value, str) and value.strip().endswith("%"):
        try:
            return round(float(value.strip()[:-1]) / 100, 12)
        except ValueError:
            return value
    return value


Percent = BeforeValidator(share)
Fraction = Annotated[float, Field(ge=0.0, le=1.0), Percent]
PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]


class Options(BaseModel):
    """What a user sets for one part: unknown keys are errors, values keep their type, every field has a description."""

    model_config = ConfigDict(extra="forbid", strict=False, validate_default=True, frozen=True)


@dataclass(frozen=True)
class NameIn:
    """Annotation of a text that must be a name in a table, which is imported when there is a value to check.

    Args:
        table: Where the table is: ``"package.module:attribute"``.
    """

    table: str
    also: Sequence[str] = ()

    def names(self) -> list[str]:
        """All names."""
        return [*self.also, *at(self.table)]

    def check(self, name: str) -> str:
        """The name; raises ValueError with the nearest one where it is not there."""
        if name not in self.names():
            guess = nearest(name, self.names())
            raise ValueError(", ".join(self.names()) + (f"; did you mean {guess!r}?" if guess else ""))
        return name

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {**handler(schema), "enum": self.names()}
