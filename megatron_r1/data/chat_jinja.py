"""A chat template as the Jinja text that transformers, vLLM and others render: what was trained is served.

`apply_chat_template` renders one text and encodes it whole, where chat_template.py encodes parts and joins
ids. The two agree wherever parts meet at a special piece or at a place where the tokenizer cuts anyway, so in
every prompt of one question, with or without a system turn; tests/data/test_chat_jinja.py holds them together
token by token. Two differences remain. A question that spells a special piece is plain text in training, and
that piece when served. And an earlier answer in the template r1_zero, which has no special piece before it,
may share a token with the colon that it follows.
"""

import json
import re
from dataclasses import dataclass

# transformers renders it in a sandbox, with raise_exception; a minus sign takes the source's own spaces away
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
    """The words of a format. opening: after BOS. system: before a system turn; None: there is none.

    user, after: around a question. cue: where the assistant begins. reasoning_ends: behind its last
    occurrence lies what stays of an earlier answer; None: all of it stays.
    """

    user: str
    after: str
    cue: str
    opening: str = ""
    system: str | None = ""
    reasoning_ends: str | None = None


def jinja_of(parts: JinjaParts, *, bos: str | None, eos: str) -> str:
    """bos: what begins a conversation; None: nothing. eos: what ends an answer."""
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
