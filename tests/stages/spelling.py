"""A tokenizer that spells any text, one token a character, for stages that ask and read free text."""

import re
from collections.abc import Collection, Sequence

PIECES = ("<bos>", "<eos>", "<user>", "<assistant>", "<think>", "</think>", "<answer>", "</answer>")
FIRST = 100  # id of the character 0


class SpellingTokenizer:
    """data.tokenizer.Tokenizer."""

    vocab_size = FIRST + 0x110000
    bos_id, chat_bos_id, eos_id, eos_ids, pad_id = 0, 0, 1, (1,), 1

    def encode(self, text: str, *, special: Collection[str] | None = None) -> list[int]:
        known = [piece for piece in PIECES if special is None or piece in special]
        pattern = "|".join(map(re.escape, known)) or "(?!)"
        ids: list[int] = []
        for part in re.split(f"({pattern})", text):
            ids += [PIECES.index(part)] if part in known else [FIRST + ord(c) for c in part]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(PIECES[i] if i < len(PIECES) else chr(i - FIRST) for i in ids if i != self.eos_id)

    def piece_id(self, piece: str) -> int:
        return PIECES.index(piece)
