"""Students of another architecture than their teacher's: BiLSTM, TextCNN, static embeddings, and a small CNN for images.

Importing this package makes their model types, and that of encoders with coded embeddings, known to transformers' Auto classes;
`import potstill` does the same as soon as transformers is imported.

The files of configurations and layers need transformers alone and import each other relatively.
"""

from __future__ import annotations

from potstill.models.architectures.auto_classes import announce
from potstill.models.architectures.registration import ARCHITECTURES, register

announce()

__all__ = ["ARCHITECTURES", "register"]
