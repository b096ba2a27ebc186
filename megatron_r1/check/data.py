"""What `check` finds in the data: the first lines of every JSONL file, read as the stage that names it does.

A line is tried as a prompt, a document or a preference; with the stage's template and tokenizer; and, where
the stage grades, by the same rewards: a reference that none of them can judge is named now, not after hours.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

from megatron_r1.check.data_uses import Use, uses
from megatron_r1.check.tasks import idle_rewards
from megatron_r1.config import Loaded
from megatron_r1.config.tree import Finding, Position
from megatron_r1.data.chat_template import TAGS, THINK_CLOSE, THINK_OPEN, get_template, templates
from megatron_r1.data.json_lines import data_files, numbered_lines, parse_line
from megatron_r1.data.preferences import read_pair, read_point
from megatron_r1.data.sources.gym import Gym
from megatron_r1.data.sources.jsonl import Jsonl, LineReader, check_side
from megatron_r1.data.tokenizers.tokenizer import Tokenizer, TokenizerConfig, load_tokenizer
from megatron_r1.errors import DataError, R1Error
from megatron_r1.run.config import RunConfig
from megatron_r1.types import Completion, Document, Message, Prompt

FIRST_LINES = 100
MAX_REPORTED = 20  # bad lines of a file
# what other templates write: text that holds it was rendered before it was put into the file
FOREIGN = (
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|start_header_id|>", "<|begin_of_text|>",
    "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "[INST]", "[/INST]",
)  # fmt: skip


@cache
def _own_marks() -> tuple[str, ...]:
    """The special pieces of all templates but the reasoning tags."""
    pieces = (piece for one in templates().values() for piece in one.required_pieces)
    return tuple(dict.fromkeys(piece for piece in pieces if piece not in TAGS))


def data_findings(loaded: Loaded[RunConfig], *, whole: bool = False) -> Iterator[Finding]:
    """Everything that is wrong in the data that the run names. whole: all lines of each file."""
    run, seen = loaded.value, set()
    found = [use for name, stage in run.stages.items() for use in uses(stage, ("stages", name))]
    yield from _leaks(loaded, found)
    for use in found:
        for finding in _of_use(loaded, use, None if whole else FIRST_LINES):
            key = (finding.position, finding.message)
            if key not in seen:
                seen.add(key)
                yield finding
    yield from idle_rewards(loaded, limit=None if whole else FIRST_LINES)


def _of_use(loaded: Loaded[RunConfig], use: Use, limit: int | None) -> Iterator[Finding]:
    source = use.source
    if isinstance(source, Gym):
        try:
            source.build(loaded.value.seed, split=use.split)
        except DataError as error:
            yield loaded.finding(use.key, str(error))
    if not isinstance(source, Jsonl):
        return
    try:
        check_side(source, use.split)
    except DataError as error:
        yield loaded.finding(use.key, str(error))
        return
    run = loaded.value.for_stage(str(use.key[1]))
    try:
        tokenizer = _tokenizer(run.tokenizer.model_dump_json(), run.template)
    except DataError as error:
        yield loaded.finding(("tokenizer",), str(error))
        return
    reader = _Reader(run, use, source, tokenizer)
    try:
        for path in data_files(Path(source.path)):
            yield from reader.file(path, limit)
    except DataError as error:
        yield loaded.finding((*use.key, "path"), str(error))
        return
    if reader.read_all and not reader.lines:
        yield loaded.finding((*use.key, "path"), f"{source.path}: the file is empty")
    elif reader.read_all and not reader.on_side:
        yield loaded.finding(
            (*use.key, "held_out"),
            f"none of the {reader.lines} lines of {source.path} is on the {use.split} side: one question in "
            "ten is held out, by its hash; add lines, or hold out a file of its own with held_out: all",
        )


@dataclass(slots=True)
class _Reader:
    """Reads the files of one use."""

    run: RunConfig
    use: Use
    source: Jsonl
    tokenizer: Tokenizer
    read_all: bool = True
    lines: int = 0
    on_side: int = 0

    def file(self, path: Path, limit: int | None) -> Iterator[Finding]:
        problems: list[tuple[int, str]] = []
        prompts: list[tuple[int, Prompt]] = []
        with path.open("rb") as file:
            numbered = numbered_lines(file, name=path)
            for place, raw in islice(numbered, limit):
                problem, prompt = self._line(raw)
                problems += [(place.number, problem)] if problem else []
                prompts += [(place.number, prompt)] if prompt is not None and not problem else []
            self.read_all &= next(numbered, None) is None
        problems += self._ungraded(prompts)
        for number, problem in sorted(problems)[:MAX_REPORTED]:
            yield Finding(Position(str(path), number), self.use.key, problem)
        if len(problems) > MAX_REPORTED:
            yield Finding(Position(str(path), sorted(problems)[MAX_REPORTED][0]), self.use.key,
                          f"and so are further lines: {len(problems)} of those that were read")  # fmt: skip

    def _line(self, raw: bytes) -> tuple[str | None, Prompt | None]:
        """What is wrong with a line; and its prompt, where there is something to grade."""
        line, problem = parse_line(raw)
        self.lines += 1
        if problem:
            self.on_side += 1  # nobody knows
            return problem, None
        reader = LineReader(self.source)
        if self.source.held_out != "tenth" or reader.side(line) == self.use.split:
            self.on_side += 1
        try:
            if self.use.form == "documents":
                return self._document(reader.document(line)), None
            prompt = reader.prompt(line)
            if self.use.form == "pairs":
                read_pair(prompt)
            elif self.use.form == "points":
                read_point(prompt)
            return self._asked(prompt.messages), prompt
        except DataError as error:
            return str(error).removeprefix(": "), None

    def _document(self, document: Document) -> str | None:
        template = get_template(self.run.template)
        marked = _marks([*document.messages, Message("assistant", document.response)])
        if document.messages and marked:
            return marked
        if document.response.count(THINK_OPEN) > document.response.count(THINK_CLOSE):
            return f"the answer opens {THINK_OPEN} and never closes it; add {THINK_CLOSE}"
        given, learnt = template.document_ids(document, self.tokenizer)
        length = len(given) + len(learnt)
        if self.use.longest is not None:
            longest = min(self.use.longest, self.run.model.max_position_embeddings)
            if length > longest:
                return (
                    f"{length} tokens, and a pack and the model's positions hold {longest}; shorten it, or "
                    "set max_chat_tokens to leave such chats out"
                )
        return None

    def _asked(self, messages: Sequence[Message]) -> str | None:
        marked = _marks(messages)
        if marked:
            return marked
        ids = get_template(self.run.template).prompt_ids(messages, self.tokenizer)
        positions = self.run.model.max_position_embeddings
        if len(ids) >= positions:
            limit = f"model.max_position_embeddings is {positions}"
            return f"a prompt of {len(ids)} tokens, and {limit}; shorten it or leave the line out"
        return None

    def _ungraded(self, prompts: Sequence[tuple[int, Prompt]]) -> list[tuple[int, str]]:
        if self.use.grader is None or not prompts:
            return []
        texts = [f"<think>so</think><answer>{prompt.reference}</answer>" for _, prompt in prompts]
        asked = [
            Completion(prompt, [], [], [], text, finished=True, policy_version=0)
            for (_, prompt), text in zip(prompts, texts, strict=True)
        ]
        try:
            reasons = self.use.grader.reasons(asked)
        except R1Error as error:  # such as a verifier's package that is not here
            return [(prompts[0][0], f"can't be graded here: {error}")]
        return [
            (number, f"no reward can grade it: {reason}; correct the task or the reference")
            for (number, _), reason in zip(prompts, reasons, strict=True)
            if reason
        ]


def _marks(messages: Sequence[Message]) -> str | None:
    for number, message in enumerate(messages, start=1):
        mark = next((mark for mark in (*_own_marks(), *FOREIGN) if mark in message.content), None)
        if mark is not None:
            return (
                f"message {number} ({message.role}) holds {mark!r}, which a chat template writes; give the "
                "plain text of each turn (check --no-files passes text that is about such marks)"
            )
    return None


def _leaks(loaded: Loaded[RunConfig], found: Sequence[Use]) -> Iterator[Finding]:
    """Files that are measured on and trained on whole."""
    files = [use for use in found if isinstance(use.source, Jsonl)]
    measured = {Path(use.source.path).resolve(): use for use in files if use.split == "held_out"}
    for use in files:
        other = measured.get(Path(use.source.path).resolve())
        if use.split == "train" and use.source.held_out == "none" and other is not None:
            measure = ".".join(map(str, other.key))
            yield loaded.finding(
                (*use.key, "held_out"),
                f"{use.source.path} is trained on whole and held out for {measure}; set held_out: tenth in "
                "both, or measure on a file of its own",
            )


@cache
def _tokenizer(config: str, template: str) -> Tokenizer:
    """config: the section as JSON. One that the run would train is trained, and thrown away."""
    pieces = get_template(template).required_pieces
    with tempfile.TemporaryDirectory(prefix="megatron-r1-check-") as folder:
        section = TokenizerConfig.model_validate_json(config)
        return load_tokenizer(section, required_pieces=pieces, directory=Path(folder))
