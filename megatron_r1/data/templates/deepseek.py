"""DeepSeek-V3's and R1's template, as released with their weights."""

from megatron_r1.data.chat_jinja import JinjaParts
from megatron_r1.data.chat_template import THINK_CLOSE, THINK_OPEN, TurnStyle
from megatron_r1.data.tokenizers.tokenizer import Tokenizer


class DeepSeek(TurnStyle):
    """DeepSeek-V3's and R1's chat format; the reasoning of earlier turns is dropped, as in their release."""

    user_piece = "<｜User｜>"
    assistant_piece = "<｜Assistant｜>"
    required_pieces = (user_piece, assistant_piece)
    think_prefix = f"{THINK_OPEN}\n"
    writes_bos = True
    parts = JinjaParts(user=user_piece, after="", cue=assistant_piece, reasoning_ends=THINK_CLOSE)

    def opening(self, system: str | None, tokenizer: Tokenizer) -> list[int]:
        return [] if system is None else tokenizer.encode(system, special=())

    def user(self, content: str, tokenizer: Tokenizer) -> list[int]:
        question = tokenizer.encode(content, special=())
        return [tokenizer.piece_id(self.user_piece), *question, tokenizer.piece_id(self.assistant_piece)]

    def past_answer(self, content: str) -> str:
        return content.rsplit(THINK_CLOSE, 1)[-1]


TEMPLATE = DeepSeek
