"""The answer of a JSON response: the response must be an object with the key "answer" and nothing around it.

DeepSeek-R1 names JSON output as a limitation (section 5). The task `json:TASK` measures it: the answer must
be in valid JSON, and is then graded as TASK grades it.
"""

import json
import re
from typing import Any

from megatron_r1.data.chat_template import ANSWER_OPEN
from megatron_r1.files.json_reader import is_text
from megatron_r1.rewards.answers.answer import after_thinking, last_tagged

KEY = "answer"
MAX_CHARS = 20_000
_FENCED = re.compile(r"```(?:json)?\n(.*)\n```", re.DOTALL)


def json_answer(text: str) -> str | None:
    """The answer as text, None without one. The JSON is the text after the reasoning, or in answer tags."""
    response = after_thinking(text)
    if response is not None and ANSWER_OPEN in response:
        response = last_tagged(response)
    if response is None or len(response) > MAX_CHARS:
        return None
    response = response.strip()
    fenced = _FENCED.fullmatch(response)
    return _answer_of(fenced[1] if fenced else response)


def _answer_of(text: str) -> str | None:
    try:
        # not json_reader.py: a number must keep its digits as written, to be graded as text
        content: Any = json.loads(text, parse_float=str, parse_int=str, parse_constant=_refuse)
    except (ValueError, RecursionError):  # RecursionError: thousands of nested brackets
        return None
    value = content.get(KEY) if isinstance(content, dict) else None
    return value.strip() if isinstance(value, str) and is_text(value) else None


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
