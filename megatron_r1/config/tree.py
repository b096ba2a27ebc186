"""YAML text -> plain values, with the place where each was written.

What a short text can blow up has bounds: aliases of aliases, nesting, digits.

YAML 1.2: `1e-6` is a number, `no` is text, a date is text. Duplicate keys, merge keys (`<<`) and keys that
are neither text nor integers are findings; an integer key is kept as its text. We read ruamel's nodes rather
than its objects: only nodes know their line.
"""

from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from megatron_r1.files.json_reader import is_text

MAX_VALUES = 100_000  # of a tree, aliases written out; a run of many stages has some thousands
MAX_DEPTH = 50
MAX_SHOWN = 60  # characters of a value in a message
LARGEST_INTEGER = (1 << 63) - 1

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """Where a value was written: a line of a file, or an override (line 0)."""

    source: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: where, at which key, and what, with the value and the remedy."""

    position: Position
    path: KeyPath
    message: str

    def __str__(self) -> str:
        key = f"{dotted(self.path)}: " if self.path else ""
        return f"{self.position}: {key}{self.message}"


@dataclass(slots=True)
class Tree:
    """Plain values (dict, list, str, int, float, bool, None) and the position of each key and item."""

    value: Any
    positions: dict[KeyPath, Position] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    whole: bool = True  # False: part could not be read, so that a missing key means nothing


def dotted(path: KeyPath) -> str:
    return ".".join(str(key) for key in path)


def parse(text: str, *, source: str, first_line: int = 1, path: KeyPath = ()) -> Tree:
    """Read one document. `path` is where its value will stand; first_line 0: the text has no lines."""
    tree = Tree(None)
    yaml = YAML(typ="safe", pure=True)
    reader = _Reader(yaml, tree, source, first_line)
    try:
        node = yaml.compose(text)
        if node is not None and _is_deep(node):
            raise RecursionError
    except RecursionError:
        tree.findings.append(Finding(Position(source, first_line), path, _TOO_DEEP))
        tree.whole = False
        return tree
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        tree.findings.append(Finding(reader.position(mark), path, _syntax_message(error)))
        tree.whole = False
        return tree
    except YAMLError as error:  # characters that no YAML may hold
        tree.findings.append(Finding(Position(source, first_line), path, f"not YAML: {error}"))
        tree.whole = False
        return tree
    if node is not None:
        tree.positions[path] = reader.position(node.start_mark)
        tree.value = reader.read(node, path)
    return tree


_TOO_DEEP = f"not a configuration: nested deeper than {MAX_DEPTH} levels"


def _is_deep(root: Node) -> bool:
    """Whether something stands below more than MAX_DEPTH mappings and lists; an alias counts once."""
    level, seen = [root], {id(root)}
    for _ in range(MAX_DEPTH):
        below = [part for node in level for part in _parts(node) if id(part) not in seen]
        seen |= {id(part) for part in below}
        level = below
    return bool(level)


def _parts(node: Node) -> list[Node]:
    if isinstance(node, MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, SequenceNode) else []


def _syntax_message(error: MarkedYAMLError) -> str:
    problem = error.problem or "not YAML"
    if "'\\t'" in problem:
        return f"not YAML: {problem}; indent with spaces"
    return f"not YAML: {problem}" + (f" ({error.context})" if error.context else "")


class _Reader:
    """Turns nodes into values, and notes positions and findings in the tree."""

    def __init__(self, yaml: YAML, tree: Tree, source: str, first_line: int) -> None:
        self._constructor = yaml.constructor
        self._tree = tree
        self._source = source
        self._first_line = first_line
        self._open: list[Node] = []  # from the root to here: an alias to one of them would never end
        self._num_values = 0

    def position(self, mark: Any) -> Position:
        line = mark.line + self._first_line if mark is not None and self._first_line else self._first_line
        return Position(self._source, line)

    def read(self, node: Node, path: KeyPath) -> Any:
        if any(node is outer for outer in self._open):
            self._find(node, path, "an alias to something that holds it; write the value out")
            return None
        self._num_values += 1
        if self._num_values > MAX_VALUES or len(self._open) >= MAX_DEPTH:
            self._stop(node, path)
            return None
        self._open.append(node)
        try:
            if isinstance(node, MappingNode):
                return self._mapping(node, path)
            if isinstance(node, SequenceNode):
                return self._sequence(node, path)
            assert isinstance(node, ScalarNode)
            return self._scalar(node, path)
        finally:
            self._open.pop()

    def _stop(self, node: Node, path: KeyPath) -> None:
        """Read nothing more, and say why once."""
        if self._num_values > MAX_VALUES + 1:
            return
        if self._num_values <= MAX_VALUES:
            self._find(node, path, _TOO_DEEP)
        else:
            message = f"more than {MAX_VALUES:,} values with all aliases written out; use fewer aliases"
            self._find(node, path, message)
        self._num_values = MAX_VALUES + 1
        self._tree.whole = False

    def _mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if self._num_values > MAX_VALUES:
                break
            key = self._key(key_node, path)
            if key is None:
                continue
            here = (*path, key)
            if key in values:
                first = self._tree.positions[here]
                self._find(key_node, here, f"duplicate key, first given at {first}; remove one")
                continue
            self._tree.positions[here] = self.position(key_node.start_mark)
            values[key] = self.read(value_node, here)
        return values

    def _key(self, node: Node, path: KeyPath) -> str | None:
        if not isinstance(node, ScalarNode):
            self._find(node, path, "a key must be text")
        elif node.tag.endswith(":merge"):
            self._find(node, path, "merge keys (<<) are not read; inherit with base: at the top of the file")
        elif not node.tag.endswith((":str", ":timestamp", ":int")):  # {0: 32768, 8200: 65536} is a schedule
            text = node.value
            self._find(
                node, path, f'the key {text} is neither text nor an integer; put it in quotes: "{text}"'
            )
        else:
            return node.value
        return None

    def _sequence(self, node: SequenceNode, path: KeyPath) -> list[Any]:
        values = []
        for index, item in enumerate(node.value):
            if self._num_values > MAX_VALUES:
                break
            self._tree.positions[(*path, index)] = self.position(item.start_mark)
            values.append(self.read(item, (*path, index)))
        return values

    def _scalar(self, node: ScalarNode, path: KeyPath) -> Any:
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        construct = {
            "null": self._constructor.construct_yaml_null,
            "bool": self._constructor.construct_yaml_bool,
            "int": self._constructor.construct_yaml_int,
            "float": self._constructor.construct_yaml_float,
        }
        if kind in construct:
            try:
                value = construct[kind](node)
            except (ValueError, KeyError):  # such as `!!int x`
                self._find(node, path, f"{_short(node.value)} is no {kind}")
                return None
            if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
                self._find(node, path, f"{_short(node.value)} is too large for an integer of 64 bits")
                return None
            return value
        if not is_text(node.value):
            self._find(node, path, f"{node.value!a:.80} holds half a surrogate pair, which no file can hold")
            return None
        if kind not in ("str", "timestamp"):
            self._find(node, path, f"the tag {node.tag} is not read; write the value without it")
        return node.value

    def _find(self, node: Node, path: KeyPath, message: str) -> None:
        self._tree.findings.append(Finding(self.position(node.start_mark), path, message))


def _short(text: str) -> str:
    return repr(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}...")
