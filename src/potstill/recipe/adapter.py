"""Settings of the adapter that a student is trained with."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from potstill.contracts.options import Options, PositiveFloat, PositiveInt


class LoraRecipe(Options):
    """Shape of a LoRA adapter: ΔW = alpha / rank · B A at each target."""

    rank: PositiveInt = Field(16, description="Columns of B and rows of A.")
    alpha: PositiveFloat = Field(32.0, description="Factor of the adapter before it is divided by the rank.")
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(0.0, description="Share of A's inputs set to 0 in training.")
    targets: Literal["auto"] | list[str] = Field(
        "auto", description="auto: every linear layer but the head; or names of layers, as [q_proj, v_proj]."
    )
