"""Tiny teachers and rows as fixtures."""

from __future__ import annotations

import pytest
from tiny_teacher import Rows, make_bert
from transformers import BertForSequenceClassification


@pytest.fixture
def rows() -> Rows:
    return Rows()


@pytest.fixture
def bert() -> BertForSequenceClassification:
    return make_bert()
