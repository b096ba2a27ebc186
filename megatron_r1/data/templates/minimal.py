"""The shortest template, for models trained from scratch."""

from megatron_r1.data.chat_jinja import JinjaParts
from megatron_r1.data.chat_template import TAGS, THINK_OPEN, TurnStyle
from megatron_r1.data.tokenizers.tokenizer import Tokenizer
from megatron_r1.errors import DataError


class Minimal(TurnStyle):
    """Role pieces and nothing else, for models trained from scratch: <bos><user> question <assistant>."""

    user_piece = "<user>"
    assistant_piece = "<assistant>"
    required_pieces = (user_piece, assistant_piece, *TAGS)
    think_prefix = THINK_OPEN
    parts = JinjaParts(user=user_piece, after="", cue=assistant_piece, system=None)

    def opening(self, system: str | None, tokenizer: Tokenizer) -> list[int]:
        if system is not None:
            raise DataError(f"template minimal has no system turn, got {system[:80]!r}; use another template")
        return []

    def user(self, content: str, tokenizer: Tokenizer) -> list[int]:
        question = tokenizer.encode(content, special=())
        return [tokenizer.piece_id(self.user_piece), *question, tokenizer.piece_id(self.assistant_piece)]


TEMPLATE = Minimal
