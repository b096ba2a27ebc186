"""Chat templates as Jinja text, which transformers, vLLM and others render to serve the trained model.

`apply_chat_template` renders one text and encodes it as a whole; chat_template.py encodes the parts and joins
their ids. The ids agree wherever the tokenizer splits between the parts, and so in every prompt with one user
turn, with or without a system turn (tests/data/test_chat_jinja.py compares them). Two differences remain.
User text that spells a special piece is plain text in training, but that piece when served. And in the
template r1_zero, which has no special pieces, an earlier response may share a token with the colon before it.
"""

import json
import re
from dataclasses import dataclass

# transformers renders it in a sandbox, with raise_exception; {%- and -%} strip the whitespace of this source
TEXT = """
{%- set first = 1 if messages and messages[0]['role'] == 'system' else 0 -%}
{%- for message in messages -%}
{%- if message['content'] is not string -%}
{{- raise_exception('the content of a turn must be text') -}}
{%- endif -%}
{%- endfor -%}
{{- OPENING -}}
{%- if first == 1 -%}SYSTEM{%- endif -%}
{%- for message in messages[first:] -%}
{%- if message['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') -%}
{{- raise_exception('turns must alternate and begin with the user, after at most one system turn') -}}
{%- endif -%}
{%- if message['role'] == 'user' -%}
{{- USER ~ message['content'] ~ AFTER -}}
{%- if add_generation_prompt or not loop.last -%}{{- CUE -}}{%- endif -%}
{%- else -%}
{{- (message['content'] if loop.last else PAST) ~ EOS -}}
{%- endif -%}
{%- endfor -%}
"""


@dataclass(frozen=True, slots=True)
class JinjaParts:
    """The fixed texts of a format. opening: after BOS. system: before a system turn; None: not supported.

    user, after: before and after a user's text. cue: begins the assistant's turn. reasoning_ends: of an
    earlier response only the text after its last occurrence is kept; None: all of it is kept.
    """

    user: str
    after: str
    cue: str
    opening: str = ""
    system: str | None = ""
    reasoning_ends: str | None = None


def jinja_of(parts: JinjaParts, *, bos: str | None, eos: str) -> str:
    """The Jinja text. bos: the piece that begins a conversation, None without. eos: the end of a response."""
    system = "{{- raise_exception('this template has no system turn') -}}"
    if parts.system is not None:
        system = f"{{{{- {_quoted(parts.system)} ~ messages[0]['content'] -}}}}"
    past = "message['content']"
    if parts.reasoning_ends is not None:
        past += f".split({_quoted(parts.reasoning_ends)})[-1]"
    words = {
        "OPENING": _quoted((bos or "") + parts.opening),
        "SYSTEM": system,
        "USER": _quoted(parts.user),
        "AFTER": _quoted(parts.after),
        "CUE": _quoted(parts.cue),
        "PAST": past,
        "EOS": _quoted(eos),
    }
    filled = re.sub("|".join(words), lambda found: words[found[0]], TEXT)
    return "".join(filled.splitlines())


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
