"""Your own chat template: [INST] question [/INST] answer, as Mistral's and Llama 2's models have it.

A template is a class that writes the turns as token ids. It is called as its file: `template: own_template`.
See own_template.yaml. What users write is encoded with `special=()`, so that a question can't forge a turn.
"""

from megatron_r1.data.chat_jinja import JinjaParts
from megatron_r1.data.chat_template import TAGS, TurnStyle
from megatron_r1.data.tokenizers.tokenizer import Tokenizer


class Instruct(TurnStyle):
    required_pieces = ("[INST]", "[/INST]", *TAGS)  # a tokenizer that the run trains gets them
    parts = JinjaParts(user="[INST]", after="", cue="[/INST]")  # the same for those who serve the model

    def opening(self, system: str | None, tokenizer: Tokenizer) -> list[int]:
        return [] if system is None else tokenizer.encode(system, special=())

    def user(self, content: str, tokenizer: Tokenizer) -> list[int]:
        question = tokenizer.encode(content, special=())
        return [tokenizer.piece_id("[INST]"), *question, tokenizer.piece_id("[/INST]")]


TEMPLATE = Instruct
