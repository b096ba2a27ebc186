"""Pydantic's errors -> findings in the user's words: the key as written, its line, the value, the remedy.

Pydantic reports every member of a plain union; here the one that was meant is picked. Which keys an error is
about is union_paths.py's part.
"""

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from megatron_r1.config import line_to_write
from megatron_r1.config.spelling import RENAMED, same_as
from megatron_r1.config.tree import MAX_SHOWN, Finding, KeyPath, Position, Tree, dotted
from megatron_r1.config.union_paths import Place, as_section, field_of, members_of, place_of

EXPECTED = {
    "int_type": "an integer", "int_from_float": "an integer", "int_parsing": "an integer",
    "float_type": "a number", "float_parsing": "a number",
    "finite_number": "a finite number", "string_type": "text", "bool_type": "true or false",
    "list_type": "a list", "tuple_type": "a list", "set_type": "a list", "dict_type": "a mapping",
    "mapping_type": "a mapping", "model_type": "a mapping", "model_attributes_type": "a mapping",
    "dataclass_type": "a mapping", "path_type": "a path", "none_required": "null",
}  # fmt: skip
BOUNDS = {
    "greater_than": "greater than {gt}", "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}", "less_than_equal": "at most {le}",
    "multiple_of": "a multiple of {multiple_of}",
    "too_short": "at least {min_length} long", "string_too_short": "at least {min_length} long",
    "too_long": "at most {max_length} long", "string_too_long": "at most {max_length} long",
    "string_pattern_mismatch": "text that matches {pattern}",
}  # fmt: skip
TAGS = ("source", "kind", "family")  # keys that say which section of a union is meant
WORDS_FOR_BOOL = {"yes": "true", "on": "true", "no": "false", "off": "false"}


@dataclass(frozen=True, slots=True)
class _Problem:
    details: ErrorDetails
    place: Place

    @property
    def kind(self) -> str:
        return self.details["type"]


def explain(error: ValidationError, schema: type[BaseModel], tree: Tree) -> list[Finding]:
    """One finding a mistake; a key that is missing because it is misspelt is one mistake."""
    problems = [_Problem(details, place_of(schema, details["loc"])) for details in error.errors()]
    findings: list[Finding] = []
    suggested: set[KeyPath] = set()
    for problem in _chosen(problems, depth=0):
        flat = _flat_data(problem, tree)
        if flat is not None:
            given = tree.value
            for key in flat:
                given = given[key]
            found = Finding(position_of(tree, flat), flat, line_to_write.of_flat("data", given))
            findings += [] if found in findings else [found]
            continue
        if problem.kind == "extra_forbidden":
            message, meant = _unknown_key(problem, schema, tree)
            suggested |= {meant} if meant else set()
        elif problem.kind == "combined":
            message = str(problem.details["msg"])
        else:
            message = _message(problem, schema, tree)
        path = problem.place.path
        if problem.kind.startswith("union_tag"):
            path = (*path, problem.details.get("ctx", {})["discriminator"].strip("'()"))
        findings.append(Finding(position_of(tree, path), path, message))
    missing = {problem.place.path for problem in problems if problem.kind == "missing"}
    return [finding for finding in findings if finding.path not in suggested & missing]


def position_of(tree: Tree, path: KeyPath) -> Position:
    """Where the key is written, or the nearest mapping around it."""
    for length in range(len(path), -1, -1):
        if path[:length] in tree.positions:
            return tree.positions[path[:length]]
    return Position("configuration")


def near(word: str, words: Sequence[str]) -> str | None:
    """The word that was likely meant."""
    found = difflib.get_close_matches(word.lower().replace("-", "_"), words, n=1)
    return found[0] if found else None


# Plain unions: one finding for all members


def _chosen(problems: list[_Problem], *, depth: int) -> list[_Problem]:
    """Of each union only the member that was meant: it fits the value's form and has the fewest errors."""
    groups: dict[Any, list[_Problem]] = {}
    for number, problem in enumerate(problems):
        choices = problem.place.choices
        groups.setdefault(choices[depth][0] if len(choices) > depth else number, []).append(problem)
    kept: list[_Problem] = []
    for key, group in groups.items():
        kept += [group[0]] if isinstance(key, int) else _meant(key, group, depth=depth)
    return kept


def _meant(union: KeyPath, group: list[_Problem], *, depth: int) -> list[_Problem]:
    by_member: dict[str, list[_Problem]] = {}
    for problem in group:
        by_member.setdefault(problem.place.choices[depth][1], []).append(problem)
    if len(by_member) == 1:
        return _chosen(group, depth=depth + 1)
    fitting = [
        member
        for member in by_member.values()
        if any(problem.place.path != union or problem.kind == "value_error" for problem in member)
    ]
    if fitting:
        return _chosen(min(fitting, key=len), depth=depth + 1)
    expected = list(dict.fromkeys(_expected(problem) for problem in group))
    message = (
        f"must be {', '.join(expected[:-1])} or {expected[-1]}" if expected[1:] else f"must be {expected[0]}"
    )
    first = group[0]
    details = ErrorDetails(
        type="combined",
        loc=first.details["loc"],
        msg=f"{message}, got {shown(first.details['input'])}",
        input=first.details["input"],
    )
    return [_Problem(details, first.place)]


# Words


def shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


def _message(problem: _Problem, schema: type[BaseModel], tree: Tree) -> str:
    details, kind = problem.details, problem.kind
    context, value = details.get("ctx", {}), details["input"]
    if kind == "missing":
        return f"missing{_description(problem, schema)}"
    if kind == "union_tag_not_found":
        tag = context["discriminator"].strip("'()")
        return f"missing; one of {', '.join(_tag_values(problem, tag))}"
    if kind == "union_tag_invalid":
        tag = context["discriminator"].strip("'()")
        names = _tag_values(problem, tag)
        return (
            f"no such {tag}: {shown(value[tag])}{_meant_word(value[tag], names)}; one of {', '.join(names)}"
        )
    if kind in ("value_error", "assertion_error"):
        return str(context["error"])
    expected = _expected(problem)
    if kind == "literal_error":
        return f"must be {expected}, got {shown(value)}{_meant_word(value, _literals(problem))}"
    if details["loc"][-1] == "[key]":
        return f"the key must be {expected}, got {shown(value)}"
    if expected == "a mapping":
        return f"must be a mapping, got {shown(value)}{_mapping_to_write(problem, value)}"
    return f"must be {expected}, got {shown(value)}{_remedy(expected, value)}"


def _mapping_to_write(problem: _Problem, value: Any) -> str:
    key = str(problem.place.path[-1]) if problem.place.path else ""
    if isinstance(value, list):
        return line_to_write.of_list(key, value, _wanted(problem))
    if key == "data" and isinstance(value, str):
        return line_to_write.of_path(key, value)
    tag, kinds = _tag_of(members_of(problem.place.annotation))
    return f"; write {key}: {{{tag}: {value}}}" if value in kinds else ""


def _wanted(problem: _Problem) -> line_to_write.Wanted:
    expected = members_of(problem.place.annotation)[0]
    section = as_section(expected)
    if section is not None:
        return line_to_write.Wanted(names=section.model_fields)
    tag, kinds = _tag_of(members_of(get_args(expected)[-1]) if get_args(expected) else [])
    return line_to_write.Wanted(tag=tag, kinds=kinds)


def _tag_of(sections: Sequence[Any]) -> tuple[str, list[str]]:
    """The key that tells the sections of a union apart, and its values; "" where there is none."""
    tag = next((key for key in TAGS if all(key in getattr(one, "model_fields", ()) for one in sections)), "")
    if len(sections) < 2 or not tag:
        return "", []
    return tag, [value for one in sections for value in get_args(one.model_fields[tag].annotation)]


def _flat_data(problem: _Problem, tree: Tree) -> KeyPath | None:
    """The keys of a `data` that is one source without a name, of which pydantic finds every key wrong."""
    path = problem.place.path
    if len(path) < 2 or path[-2] != "data" or _expected(problem) != "a mapping":
        return None
    given = tree.value
    for key in path[:-1]:
        given = given[key]
    return path[:-1] if isinstance(given, dict) and isinstance(given.get("source"), str) else None


def _expected(problem: _Problem) -> str:
    details, kind = problem.details, problem.kind
    if kind in BOUNDS:
        return BOUNDS[kind].format(**details.get("ctx", {}))
    if kind == "literal_error":
        names = _literals(problem)
        return names[0] if len(names) == 1 else f"one of {', '.join(names)}"
    return EXPECTED.get(kind, details["msg"].removeprefix("Input should be "))


def _literals(problem: _Problem) -> list[str]:
    for member in members_of(problem.place.annotation):
        if get_origin(member) is Literal:
            return [value if isinstance(value, str) else shown(value) for value in get_args(member)]
    return [details.strip("'") for details in problem.details.get("ctx", {})["expected"].split(" or ")]


def _tag_values(problem: _Problem, tag: str) -> list[str]:
    sections = members_of(problem.place.annotation)
    return [value for section in sections for value in get_args(section.model_fields[tag].annotation)]


def _meant_word(value: Any, names: list[str]) -> str:
    meant = near(value, names) if isinstance(value, str) else None
    return f"; did you mean {meant}?" if meant else ""


def _remedy(expected: str, value: Any) -> str:
    """What to write instead, where that is plain."""
    if value is None:
        return "; give a value or remove the key"
    if expected == "text" and isinstance(value, bool | int | float):
        return f'; put it in quotes: "{shown(value)}"'
    if expected == "true or false" and isinstance(value, str) and value.lower() in WORDS_FOR_BOOL:
        return f"; write {WORDS_FOR_BOOL[value.lower()]}"
    if expected == "an integer" and isinstance(value, float) and value.is_integer():
        return f"; write {int(value)}"
    if expected in ("an integer", "a number") and isinstance(value, str) and _is_number(value):
        return "; remove the quotes"
    if expected == "a list" and not isinstance(value, dict | list):
        return f"; write [{value if isinstance(value, str) else shown(value)}]"
    return ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _description(problem: _Problem, schema: type[BaseModel]) -> str:
    owner = _owner(problem, schema)
    field = field_of(owner, str(problem.place.path[-1])) if owner else None
    return f": {field.description}" if field and field.description else ""


def _owner(problem: _Problem, schema: type[BaseModel]) -> type[BaseModel] | None:
    """The section that the error's last key belongs to."""
    return as_section(members_of(place_of(schema, problem.details["loc"][:-1]).annotation)[0])


def _unknown_key(problem: _Problem, schema: type[BaseModel], tree: Tree) -> tuple[str, KeyPath | None]:
    """The message, and the key that was meant."""
    *outer, last = problem.place.path
    owner = _owner(problem, schema)
    if owner is None:
        return "unknown key", None
    now = RENAMED.get(str(last))
    if now is not None and now.partition(".")[0] in owner.model_fields:
        return f"now {dotted((*outer, now))}", None
    given = tree.value
    for key in outer:
        given = given[key]
    other = same_as(last, given, name=outer[-1] if outer else None)
    if other in given:
        return f"means the same as {other}, which is given as well; remove one", None
    free = [name for name in owner.model_fields if name not in given]
    meant = near(str(last), free) or near(str(last), list(owner.model_fields))
    if meant:
        return f"unknown key; did you mean {meant}?", (*outer, meant)
    for name, field in owner.model_fields.items():
        section = as_section(members_of(field.annotation)[0])
        if section and last in section.model_fields:
            return f"unknown key; did you mean {name}.{last}?", None
    return f"unknown key; valid here: {', '.join(owner.model_fields)}", None
