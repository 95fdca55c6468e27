"""Laws of every type of decoder: head and hidden states are the model, and packed documents are what they are alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from language_builders import TYPES, VOCABULARY, tiny_decoder

from potstill.errors import ModelError
from potstill.modalities.language.documents import Document, Documents, write_documents
from potstill.modalities.language.packing import PackedRows, WindowCollator, pack
from potstill.models.decoder import Decoder


@pytest.fixture
def documents(tmp_path: Path) -> Documents:
    random = np.random.default_rng(0)
    made = []
    for length in (30, 7, 21, 3, 12, 32, 2, 9):
        learned = random.random(length) < 0.7
        learned[0], learned[-1] = False, True
        made.append(Document(random.integers(2, VOCABULARY, length), learned, int(learned.sum())))
    return write_documents(made, tmp_path / "documents", {})


@pytest.mark.parametrize("model_type", TYPES)
def test_the_head_makes_the_logits_of_the_hidden_states(model_type: str) -> None:
    Decoder(tiny_decoder(model_type)).check()


def test_a_model_that_changes_its_logits_in_another_way_is_refused() -> None:
    model = tiny_decoder("llama")
    model.register_forward_hook(lambda module, inputs, outputs: setattr(outputs, "logits", outputs.logits * 2))
    with pytest.raises(ModelError, match="between head and output"):
        Decoder(model).check()


def test_a_model_without_such_a_head_is_refused() -> None:
    with pytest.raises(ModelError, match="AutoModelForCausalLM"):
        Decoder(tiny_decoder("llama").model)


@pytest.mark.parametrize("model_type", TYPES)
def test_packed_documents_are_what_they_are_alone(model_type: str, documents: Documents) -> None:
    decoder, collate = Decoder(tiny_decoder(model_type)), WindowCollator(1)
    packed, alone = PackedRows(documents, 40), PackedRows(documents, 40, is_packed=False)
    assert len(packed) < len(alone)
    found: dict[tuple[int, int], torch.Tensor] = {}
    for rows, compare in ((alone, False), (packed, True)):
        batch = collate([rows[index] for index in range(len(rows))])
        with torch.no_grad():
            hidden = decoder.hidden(batch)
        places = zip(batch["sample_ids"].flatten().tolist(), batch["position_ids"].flatten().tolist(), hidden.flatten(0, 1))
        for sample, position, value in places:
            if sample < 0:
                continue
            if compare:
                torch.testing.assert_close(value, found[sample, position], rtol=1e-4, atol=1e-5)
            found[sample, position] = value


def test_windows_hold_every_document_once_and_their_targets_stay_inside(documents: Documents) -> None:
    rows = PackedRows(documents, 40)
    assert sorted(number for window in rows.windows for number in window) == list(range(len(documents)))
    assert max(rows.lengths) <= 40
    learned = 0
    for index in range(len(rows)):
        row = rows[index]
        for place, target in enumerate(row["targets"]):
            if target == -100:
                continue
            learned += 1
            assert row["sample_ids"][place] == row["sample_ids"][place + 1]
            assert row["input_ids"][place + 1] == target
    assert learned == int(documents.learned.sum())


def test_packing_wastes_little() -> None:
    lengths = np.random.default_rng(1).integers(1, 513, 2000)
    windows = pack(lengths, 512)
    assert sum(map(len, windows)) == 2000
    assert all(lengths[window].sum() <= 512 for window in windows)
    assert lengths.sum() / (512 * len(windows)) > 0.97
