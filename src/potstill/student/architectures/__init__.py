"""Students of another architecture than their teacher's: BiLSTM, TextCNN, static embeddings, and a small CNN for images.

Importing this package makes the four model types known to transformers' Auto classes; `import potstill` alone does not.
"""

from __future__ import annotations

from potstill.student.architectures.registration import ARCHITECTURES, is_architecture, modality_of, register

register()

__all__ = ["ARCHITECTURES", "is_architecture", "modality_of", "register"]
