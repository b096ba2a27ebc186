import pytest

from megatron_r1.config.tree import Position, parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-6", 1e-6), ("3E5", 3e5), (".5", 0.5), ("-7", -7), ("0x1f", 31), ("0o17", 15), ("1_000", 1000),
        (".inf", float("inf")), ("true", True), ("null", None), ("~", None), ("''", ""),
        ("no", "no"), ("on", "on"), ("off", "off"), ("y", "y"), ("1:30", "1:30"),
        ("2024-01-31", "2024-01-31"),
        ("'1'", "1"), ("[1, [a]]", [1, ["a"]]), ("{a: {b: 1.0}}", {"a": {"b": 1.0}}),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(text, value):
    tree = parse(text, source="x")
    assert tree.value == value
    assert type(tree.value) is type(value)
    assert tree.findings == []


def test_every_key_and_item_has_its_line():
    tree = parse("# comment\na:\n  b: 1\n  c:\n  - x\n  - {d: 2}\n", source="x.yaml")
    lines = {path: position.line for path, position in tree.positions.items()}
    assert lines == {(): 2, ("a",): 2, ("a", "b"): 3, ("a", "c"): 4, ("a", "c", 0): 5, ("a", "c", 1): 6,
                     ("a", "c", 1, "d"): 6}  # fmt: skip
    assert str(tree.positions["a", "b"]) == "x.yaml:3"


def test_an_integer_key_is_kept_as_its_text():
    assert parse("a: {0: 1, 8200: 2}\n", source="x").value == {"a": {"0": 1, "8200": 2}}


def test_anchors_are_read():
    assert parse("a: &x {b: 1}\nc: *x\n", source="x").value == {"a": {"b": 1}, "c": {"b": 1}}


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("a: 1\nb: 2\na: 3\n", "x:3: a: duplicate key, first given at x:1; remove one"),
        ("a:\n  b: 1\n  b: 1\n", "x:3: a.b: duplicate key, first given at x:2; remove one"),
        ("a: 1\n1.5: 2\n", 'x:2: the key 1.5 is neither text nor an integer; put it in quotes: "1.5"'),
        ("a:\n  true: 2\n", 'x:2: a: the key true is neither text nor an integer; put it in quotes: "true"'),
        ("? [a]\n: 1\n", "x:1: a key must be text"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n",
         "x:3: c: merge keys (<<) are not read; inherit with base: at the top of the file"),
        ("a: !!set {b}\n", None),
        ("a: !mine 1\n", "x:1: a: the tag !mine is not read; write the value without it"),
        ("a: !!int x\n", "x:1: a: 'x' is no int"),
        ("a: &x [*x]\n", "x:1: a.0: an alias to something that holds it; write the value out"),
        ("a: 1\nb:\n\tc: 1\n",
         "x:3: not YAML: found character '\\t' that cannot start any token; indent with spaces"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_a_finding_with_its_line(text, finding):
    found = [str(one) for one in parse(text, source="x").findings]
    assert found == ([finding] if finding else [])


def test_a_syntax_error_has_its_line():
    tree = parse("a: 1\nb: [1, 2\nc: 3\n", source="x")
    assert not tree.whole
    assert [one.position for one in tree.findings] == [Position("x", 3)]
    assert "not YAML" in tree.findings[0].message


def test_characters_that_yaml_forbids_are_a_finding():
    tree = parse("a: \x00\n", source="x")
    assert not tree.whole
    assert "not YAML" in str(tree.findings[0])


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "more than 100,000 values with all aliases written out"),
        ("[" * 5000 + "]" * 5000, "nested deeper than 50 levels"),
        ("a: " + "[" * 101 + "]" * 101, "nested deeper than 50 levels"),
        ("a: 9223372036854775808", "too large for an integer of 64 bits"),
        ("a: 0x" + "f" * 5000, "too large for an integer of 64 bits"),
        ("a: " + "9" * 5000, "is no int"),
    ],
)
def test_what_a_short_text_can_blow_up_is_refused_once(text, words):
    tree = parse(text, source="x.yaml")
    assert len(tree.findings) >= 1
    assert words in str(tree.findings[0])
    assert len(str(tree.findings[0])) < 300
