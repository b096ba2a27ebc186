#!/usr/bin/env bash
# sentencepiece 0.2.3: a model that is trained as the library is set writes x² as x2, and drops indentation.
#
# Expected: what is encoded comes back from the ids; byte_fallback=True is meant to leave nothing out.
# Seen: the default normalization (nmt_nfkc) is part of the model and runs before byte fallback: 3² is encoded as
# 32, 2½ as 21⁄2, and spaces at the line's beginning or in a row become one or none, so that formulas and Python
# lose their meaning before the model sees them. normalization_rule_name="identity" with
# remove_extra_whitespaces=False keeps both.
# megatron_r1 trains with these two (data/tokenizers/sentencepiece_tokenizer.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check sentencepiece==0.2.3
"$folder/venv/bin/python" - <<'PYTHON'
import io

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

TEXTS = ["3² = 9", "2½ = 2.5", "    return 1", "a  b"]


def come_back(**options: object) -> list[str]:
    model = io.BytesIO()
    lines = iter([*TEXTS, "one two three"] * 20)
    SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=model, vocab_size=300, model_type="bpe", byte_fallback=True,
        hard_vocab_limit=False, minloglevel=2, **options,
    )
    processor = SentencePieceProcessor(model_proto=model.getvalue())
    return [processor.decode(processor.encode(text)) for text in TEXTS]


found = come_back()
kept = come_back(normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=False)
print(f"{TEXTS}\nas it is: {found}\nidentity: {kept}")
assert kept == TEXTS
assert found == ["32 = 9", "21⁄2 = 2.5", "return 1", "a b"], "changed"
PYTHON
