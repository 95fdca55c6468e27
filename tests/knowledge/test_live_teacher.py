"""The teacher at rest, whatever is done to it between and during calls."""

from __future__ import annotations

import pytest
import torch
from tiny_teacher import Rows, collate, make_bert
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification

from potstill.contracts.source import TeacherSource
from potstill.errors import ModelError, NeedsError
from potstill.knowledge.live import LiveTeacher
from potstill.models.frozen import fingerprint_of, freeze

NEEDS = ("logits", "embedding", "hidden:1", "hidden:-1")


@pytest.fixture
def batch(rows):
    return collate([rows[index] for index in range(6)])


def make_resnet() -> ResNetForImageClassification:
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3)
    return ResNetForImageClassification(config)


class TestAtRest:
    def test_train_mode_between_calls_changes_nothing(self, bert, batch):
        live = LiveTeacher(bert, dtype="float32")
        before = live.signal(batch).logits
        bert.train()
        assert torch.equal(live.signal(batch).logits, before)
        bert.bert.encoder.train()
        assert torch.equal(live.signal(batch).logits, before)
        assert not any(module.training for module in bert.modules())

    def test_running_statistics_of_a_resnet_stay_as_they_are(self):
        model = make_resnet()
        model.train()
        live = LiveTeacher(model, dtype="float32")
        before = fingerprint_of(model)
        signal = live.signal({"pixel_values": torch.randn(4, 3, 32, 32)}, ("logits", "hidden:1", "hidden:-1"))
        assert fingerprint_of(model) == before
        assert not any(module.training for module in model.modules())
        assert signal.taps["hidden:1"].shape[:2] == (4, 8)
        assert signal.taps["hidden:-1"].shape[:2] == (4, 16)
        assert signal.token_mask is None

    @pytest.mark.parametrize("needs", [("logits",), NEEDS])
    def test_a_student_can_learn_from_the_signal_and_the_teacher_gets_no_gradient(self, bert, batch, needs):
        live = LiveTeacher(bert, dtype="float32")
        before = fingerprint_of(bert)
        signal = live.signal(batch, needs)
        student = nn.Linear(3, 3)
        # The product saves the teacher's values for the backward pass.
        loss = (student(torch.ones(6, 3)) * signal.logits).sum()
        for value in signal.taps.values():
            loss = loss + (student.weight.sum() * value).square().mean()
        loss.backward()
        assert student.weight.grad is not None
        assert not signal.logits.requires_grad
        assert all(parameter.grad is None and not parameter.requires_grad for parameter in bert.parameters())
        assert fingerprint_of(bert) == before


class TestSignal:
    def test_hidden_states_are_those_of_the_model(self, bert, batch):
        live = LiveTeacher(bert, dtype="float32")
        assert isinstance(live, TeacherSource)
        signal = live.signal(batch, NEEDS)
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
        with torch.no_grad():
            states = freeze(bert)(**inputs, output_hidden_states=True).hidden_states
        for need, index in (("embedding", 0), ("hidden:1", 1), ("hidden:-1", 2)):
            assert torch.equal(signal.taps[need], states[index])
        assert torch.equal(signal.token_mask, batch["attention_mask"])

    def test_its_own_inputs_come_first(self, bert, batch):
        live = LiveTeacher(bert, dtype="float32")
        own = {f"teacher_{key}": batch[key] for key in ("input_ids", "attention_mask")}
        other = {"input_ids": torch.ones(6, 2, dtype=torch.long), "attention_mask": torch.ones(6, 2, dtype=torch.long)}
        assert torch.equal(live.signal(other | own).logits, live.signal(batch).logits)

    def test_bfloat16_is_close_given_in_float32_and_leaves_the_weights(self, bert, batch):
        before = fingerprint_of(bert)
        rough = LiveTeacher(bert, dtype="bfloat16").signal(batch, NEEDS)
        exact = LiveTeacher(bert, dtype="float32").signal(batch, NEEDS)
        assert rough.logits.dtype == torch.float32
        torch.testing.assert_close(rough.logits, exact.logits, rtol=0.1, atol=0.1)
        assert fingerprint_of(bert) == before

    def test_tap_reader_reads_in_one_forward(self, bert, batch):
        class Reader:
            calls = 0

            def read(self, model, inputs, needs):
                self.calls += 1
                assert not torch.is_grad_enabled()
                logits = model(**inputs).logits
                return {need: logits if need == "logits" else logits + 1 for need in needs}

        reader = Reader()
        live = LiveTeacher(bert, reader, dtype="float32")
        signal = live.signal(batch, ("attention:1", "logits"))
        assert reader.calls == 1
        assert torch.equal(signal.taps["attention:1"], signal.logits + 1)

    def test_needs_and_inputs_that_cannot_be_met(self, bert, batch):
        live = LiveTeacher(bert)
        with pytest.raises(
            NeedsError, match=r"attention:1 is needed of the teacher, .*What to do: LiveTeacher\(model, TapReader\(\)\)"
        ):
            live.signal(batch, ("attention:1",))
        with pytest.raises(ModelError, match=r"hidden:9 does not exist.*hidden:0 to hidden:2"):
            live.signal(batch, ("hidden:9",))
        with pytest.raises(ModelError, match=r"none of the teacher's inputs; it has row_id"):
            live.signal({"row_id": batch["row_id"]})


class TestFingerprint:
    def test_follows_weights_and_not_names(self, tmp_path, bert):
        first = fingerprint_of(bert)
        bert.save_pretrained(tmp_path)
        bert.config.id2label = {0: "a", 1: "b", 2: "c"}
        assert fingerprint_of(type(bert).from_pretrained(tmp_path)) == fingerprint_of(bert) == first
        with torch.no_grad():
            bert.classifier.bias[0] += 1e-7
        assert fingerprint_of(bert) != first

    def test_follows_settings_that_change_the_result(self):
        assert fingerprint_of(make_bert()) != fingerprint_of(make_bert(hidden_act="relu"))

    def test_of_half_precision_and_plain_modules(self):
        module = nn.Linear(2, 2)
        assert fingerprint_of(module) != fingerprint_of(module.bfloat16())


def test_rows_are_reproducible():
    assert Rows().fingerprint == Rows().fingerprint
