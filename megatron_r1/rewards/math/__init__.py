"""Mathematical answers: how they are read, what they are worth, and when two of them are equal.

    spelling      one spelling for what LaTeX, Unicode and keyboards write in many ways
    literals      numbers as people write them: groups of thousands, decimal commas, repeating decimals
    tokens        text to tokens; what is unknown is a token too (cursor: a place among them)
    expression    the tree, in which rational constants are computed exactly and within limits (and functions)
    formula       tokens to a tree, or the place where mathematics ends (atoms: what a formula is made of)
    statement     lists, relations, quantities, ratios; plain text for all else (phrases: times, 2 h 30 min)
    unit_table    the units that are known (rewards/units reads them)
    equality      when two trees are equal, as far as that takes no algebra
    algebra       the rest, in sympy, in a process that can be killed

Nothing is dropped: what is not understood is text, and text equals only the same text.
"""
