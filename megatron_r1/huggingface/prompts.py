"""Prompts to compare two models on: token ids, or text through the model's own tokenizer.json."""

import random
from pathlib import Path

from megatron_r1.errors import CheckpointError, DataError
from megatron_r1.files.json_reader import NotJson, parse_json
from megatron_r1.files.regular_file import read_bytes
from megatron_r1.huggingface.config_file import CONFIG, read_json

LENGTHS = (8, 40)
TOKENIZER = "tokenizer.json"


def random_prompts(directory: Path) -> list[list[int]]:
    """Two random prompts, the same for every model with this vocabulary size."""
    vocab_size = _vocab_size(directory)
    draw = random.Random(0)
    return [[draw.randrange(vocab_size) for _ in range(length)] for length in LENGTHS]


def prompts_of_file(path: Path, directory: Path) -> list[list[int]]:
    """A prompt a line: a JSON list of token ids, or text. Raises DataError with the line."""
    try:
        text = read_bytes(path, error=DataError).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start + 1} is not UTF-8; save the file as UTF-8") from None
    lines = enumerate(text.splitlines(), 1)
    found = {f"{path}:{number}": line for number, line in lines if line.strip()}
    if not found:
        raise DataError(f"{path}: no prompt in it")
    prompts = [_ids(line, directory, place=place) for place, line in found.items()]
    vocab_size = _vocab_size(directory)
    for place, ids in zip(found, prompts, strict=True):
        if max(ids) >= vocab_size:
            raise DataError(f"{place}: token {max(ids)}, and the model's vocabulary has {vocab_size}")
    return prompts


def _vocab_size(directory: Path) -> int:
    found = read_json(directory / CONFIG).get("vocab_size")
    if type(found) is not int or found < 1:
        raise CheckpointError(f"{directory / CONFIG}: vocab_size={found!r:.80} is no size of a vocabulary")
    return found


def _ids(line: str, directory: Path, *, place: str) -> list[int]:
    if line.lstrip().startswith("["):
        try:
            ids = parse_json(line)
        except NotJson:
            ids = None
        if isinstance(ids, list) and ids and all(type(i) is int and i >= 0 for i in ids):
            return ids
        raise DataError(f"{place}: neither text nor a list of token ids")
    file = directory / TOKENIZER
    if not file.is_file():
        raise DataError(f"{place}: is text, and {directory} has no {TOKENIZER}; write lists of token ids")
    from tokenizers import Tokenizer

    try:
        ids = Tokenizer.from_file(str(file)).encode(line).ids
    except Exception as error:  # the library raises bare Exceptions
        raise DataError(f"{file}: the tokenizers library can't read it: {error}") from error
    if not ids:
        raise DataError(f"{place}: no token comes of it")
    return ids
