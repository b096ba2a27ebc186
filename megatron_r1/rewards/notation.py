"""Notation in a chain of thought (tags, LaTeX commands, mathematics, code, functions), told from prose.

Notation is neutral for the language reward, so a model could hide prose in it. `without_notation` removes
notation from a text and counts words in disguise: tags other than the template's, commands and environments
that LaTeX doesn't have, and letters spelled out one by one (`<we><add>`, `\\we \\add`, `w e a d d`). Three
words in a row in mathematics, or four in code, are prose and stay in the text. All this concerns Latin
letters; letters of other scripts are never notation and stay too.
"""

import re
from dataclasses import dataclass, field

from megatron_r1.data.chat_template import TAGS

CODE_RUN, MATHS_RUN = 4, 3  # from so many words in a row on it is prose, in code and in mathematics
KEYWORD_RUN = 6  # the same if a programming language's keyword is among them
SPELLED_RUN, FACTORS_RUN = 4, 8  # so many single letters in a row spell words, in prose and in mathematics
SHORT_SPAN = 8  # characters of three words with two letters each; a shorter span can't hide prose
LETTERS_A_WORD = 4  # letters per disguised word


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


LATEX = _names(
    """
    alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi pi
    varpi rho varrho sigma varsigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi
    Sigma Upsilon Phi Psi Omega aleph beth hbar ell imath jmath wp Re Im partial nabla infty emptyset
    varnothing angle triangle square Box diamond star ast circ bullet cdot cdots ldots dots vdots ddots
    times div pm mp oplus ominus otimes odot cap cup sqcap sqcup setminus vee wedge lor land lnot neg
    forall exists nexists in ni notin subset supset subseteq supseteq subsetneq leq le geq ge ll gg lt
    gt neq ne equiv sim simeq approx cong propto mid nmid parallel perp vdash models prec succ preceq
    succeq doteq asymp to gets mapsto rightarrow leftarrow Rightarrow Leftarrow leftrightarrow
    Leftrightarrow longrightarrow Longrightarrow longmapsto implies impliedby iff hookrightarrow uparrow
    downarrow Uparrow Downarrow nearrow searrow xrightarrow therefore because qed sum prod coprod int
    iint iiint oint bigcup bigcap bigvee bigwedge bigoplus bigotimes lim limsup liminf sup inf max min
    argmax argmin sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh coth log ln lg exp det dim
    ker hom deg gcd lcm mod bmod pmod Pr arg frac dfrac tfrac cfrac sqrt root binom dbinom tbinom choose
    over atop overline underline overbrace underbrace overset underset stackrel widehat widetilde hat
    tilde bar vec dot ddot acute grave check breve overrightarrow overleftarrow prime left right middle
    big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr langle rangle lfloor rfloor lceil
    rceil lvert rvert lVert rVert vert Vert lbrace rbrace lbrack rbrack backslash quad qquad hspace
    vspace hfill hline cline text textbf textit textrm textsf texttt textup emph mathrm mathbf mathit
    mathsf mathtt mathbb mathcal mathfrak mathscr boldsymbol bm operatorname mbox hbox fbox boxed
    colorbox color textcolor cancel bcancel xcancel phantom displaystyle textstyle scriptstyle
    scriptscriptstyle limits nolimits begin end item label tag ref eqref nonumber notag hdots substack
    not complement dagger ddagger sharp flat natural clubsuit heartsuit copyright degree percent pounds
    euro yen S P mathord mathop mathbin mathrel mathopen mathclose section subsection subsubsection
    paragraph newline linebreak par noindent centering caption cite includegraphics usepackage
    documentclass url href footnote
    """
)
ENVIRONMENTS = _names(
    """
    equation align alignat aligned alignedat gather gathered multline split cases dcases rcases array
    matrix pmatrix bmatrix Bmatrix vmatrix Vmatrix smallmatrix subarray eqnarray math displaymath center
    tabular table figure itemize enumerate description document quote quotation verbatim minipage
    tikzpicture proof theorem lemma solution
    """
)
FUNCTIONS = re.compile(
    r"(?<![A-Za-z\\])(?:arc)?(?:sinh?|cosh?|tanh?|cot|sec|csc|log|ln|lg|exp|lim|gcd|lcm|mod|max|min|sqrt|det)"
    r"(?=\s*[(\[{_^0-9])"
)
_KEYWORDS = _names(
    "import def return lambda class public static void int const var function elif print include select"
)

LATIN = (
    "A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02af\u1d00-\u1d25\u1d2c-\u1d5c\u1d62-\u1d65"
    "\u1d6b-\u1d77\u1d79-\u1dbe\u1e00-\u1eff\u2c60-\u2c7f\ua722-\ua787\ua78b-\ua7ff\uab30-\uab5a\uab5c-\uab64"
)
_OWN_TAGS = frozenset((*TAGS, "<br>", "<br/>", "<sub>", "</sub>", "<sup>", "</sup>"))
_TAG = re.compile(r"</?([A-Za-z_]{1,32})/?>")
_CODE = re.compile(r"```[^`]++```|`[^`\n]++`(?:[ \t]*+`[^`\n]++`)*+")
_SPAN = r"(?:\$\$[^$]++\$\$|\$[^$]++\$|\\\((?:[^\\]|\\[^()])*+\\\)|\\\[(?:[^\\]|\\[^\[\]])*+\\\])"
_MATHS = re.compile(rf"{_SPAN}(?:[ \t]*+{_SPAN})*+")
_DELIMITERS = re.compile(r"[`$]+|\\[()\[\]]")
_COMMAND = re.compile(r"\\(?:(?:begin|end)\{([A-Za-z]{1,32})\*?\}|([A-Za-z]+))")
_NAME = re.compile(rf"[{LATIN}]+")
_RUN = re.compile(rf"(?<![{LATIN}])[{LATIN}]{{2,}}(?:[ ,'\u2019]+[{LATIN}]{{2,}})*")


def _spelled(run: int) -> re.Pattern[str]:
    return re.compile(
        rf"(?<![{LATIN}'\u2019])[{LATIN}](?:(?:\s+|[.\-_/])[{LATIN}](?![{LATIN}'\u2019])){{{run - 1},}}"
    )


_LETTERS, _FACTORS = _spelled(SPELLED_RUN), _spelled(FACTORS_RUN)


@dataclass(slots=True)
class Taken:
    """What was removed from a text.

    words: the number of disguised words. names: the distinct commands, identifiers and variables, lower case.
    """

    words: int = 0
    names: set[str] = field(default_factory=set)


def without_notation(text: str) -> tuple[str, Taken]:
    """The prose of a text, and what was removed from it."""
    taken = Taken()
    text = _TAG.sub(lambda tag: _take_tag(tag, taken), text)
    text = _CODE.sub(lambda span: _prose_of(span.group(), CODE_RUN, taken), text)
    text = _MATHS.sub(lambda span: _prose_of(span.group(), MATHS_RUN, taken), text)
    text = _COMMAND.sub(lambda command: _take_command(command, taken), text)
    text = _LETTERS.sub(lambda letters: _take_spelled(letters, taken), text)
    return FUNCTIONS.sub(" ", text), taken


def _prose_of(span: str, run: int, taken: Taken) -> str:
    """A span of code or mathematics without its Latin names, except for prose in it."""
    span = _DELIMITERS.sub(" ", span)
    if "\\" in span:
        span = _COMMAND.sub(lambda command: _take_command(command, taken), span)
    if len(span) < SHORT_SPAN:
        return _take_names(span, taken)
    span = _FACTORS.sub(lambda letters: _take_spelled(letters, taken), span)
    kept, end = [], 0
    for match in _RUN.finditer(span):
        if _is_prose(match.group(), run):
            kept += [_take_names(span[end : match.start()], taken), match.group()]
            end = match.end()
    return " ".join([*kept, _take_names(span[end:], taken)])


def _is_prose(words: str, run: int) -> bool:
    found = _NAME.findall(words)
    return len(found) >= (KEYWORD_RUN if _KEYWORDS & set(found) else run)


def _take_names(text: str, taken: Taken) -> str:
    taken.names.update(map(str.lower, _NAME.findall(text)))
    return _NAME.sub(" ", text)


def _take_tag(tag: re.Match[str], taken: Taken) -> str:
    if tag.group() not in _OWN_TAGS and len(tag[1]) > 1:
        taken.words += len(_NAME.findall(tag[1]))
    return " "


def _take_command(command: re.Match[str], taken: Taken) -> str:
    environment, name = command.groups()
    known = environment in ENVIRONMENTS if environment else len(name) == 1 or name in LATEX
    if known:
        taken.names.add((environment or name).lower())
    else:
        taken.words += max(1, len(environment or name) // LETTERS_A_WORD)
    return " "


def _take_spelled(letters: re.Match[str], taken: Taken) -> str:
    taken.words += max(1, len(_NAME.findall(letters.group())) // LETTERS_A_WORD)
    return " "
