"""The tokenizer and the context of the stages' tests."""

from tests.stages.conftest import context, ids, tokenizer

__all__ = ["context", "ids", "tokenizer"]
