"""Parser of mathematical answers, and rules for when two of them are equal.

    spelling      normalises the many spellings of LaTeX, Unicode and keyboards literals      numbers as
    people write them: thousands separators, decimal commas, repeating decimals tokens        tokenizer;
    unknown characters become tokens too (cursor: a position among tokens) expression    the tree, in which
    rational constants are computed exactly, within limits (functions: by name) formula       parser of a
    formula, up to where mathematics ends (atoms: its smallest parts) statement     parser of lists,
    relations, quantities, ratios; anything else is text (phrases: times, words) unit_table    the known units
    (units: parser of units) equality      equality of two trees, as far as it takes no algebra algebra
    equality by sympy, in a process that can be killed

Nothing is skipped: what can't be parsed is text, and text equals only the same text.
"""
