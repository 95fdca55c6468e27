"""The section ``language`` of a recipe: how texts are read, what is compared, and what is kept of a teacher's distributions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from potstill.contracts.options import Options

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class LanguageOptions(Options):
    """Settings of runs whose rows are texts or conversations and whose models predict the next token."""

    template: str | None = Field(
        None, description="Chat template (Jinja text, or a file with it) instead of the tokenizer's own."
    )
    loss_on: Literal["assistant", "all"] = Field(
        "assistant", description="Tokens that are learned of conversations: the assistant's, or all. Of plain texts all are."
    )
    packing: bool = Field(True, description="Put several documents into one window, which do not see each other.")
    window: PositiveInt = Field(512, description="Tokens of a window; data.max_tokens goes before it.")
    divergence: Literal["kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl", "tvd"] = Field(
        "kl", description="What is compared between teacher and student; a sampled cache knows kl alone."
    )
    beta: Share = Field(0.5, description="β of jsd, from 0 (forward KL) to 1 (reverse KL).")
    skew: Share = Field(0.1, description="α of the skewed divergences.")
    temperature: PositiveFloat = Field(1.0, description="τ of both sides; the divergence is multiplied by τ².")
    labels: Share = Field(0.1, description="Weight of the cross-entropy with the tokens of the data; the teacher has the rest.")
    scheme: Literal["sampled", "top_k", "dense"] = Field(
        "sampled", description="What a cache keeps of each distribution: draws from it, its largest entries, or all of it."
    )
    samples: PositiveInt = Field(50, description="Draws for each token (scheme: sampled).")
    entries: PositiveInt = Field(50, description="Largest entries for each token (scheme: top_k).")
    tail: bool = Field(True, description="Whether the rest of a top_k distribution counts as one more entry.")
