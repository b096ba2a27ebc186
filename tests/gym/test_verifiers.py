"""Right and wrong answers to items of reasoning-gym 0.1.25, by our verifiers. No library needed."""

import time

import pytest

from megatron_r1.gym.integrals import NotReadable
from megatron_r1.gym.scoring import is_right, settled

GRID = "1 2\n3 4"
INTEGRAL = {"integrand": "-3*asin(2*x)", "variable": "x"}
SUMS = {"n_rows": 2, "n_cols": 2, "row_sums": [2, 1], "col_sums": [2, 1]}
BOARDS = ["_ Q _ _\n_ _ _ Q\nQ _ _ _\n_ _ Q _", "_ _ Q _\nQ _ _ _\n_ _ _ Q\n_ Q _ _"]
PARTITIONS = [["a", "a"], ["aa"]]

CASES = [  # family, reference, metadata, right answers, wrong answers
    ("game_of_life_halting", "True", {}, ["True", "true"], ["False", "x", "0", "", "True False", "not True"]),
    (
        "coin_flip",
        "0.0625",
        {"rational": {"numerator": 8, "denominator": 128}},
        ["0.0625", "1/16", "8/128", "6.25e-2", ".0625"],
        ["0", "0.0624", "0.06", "0.06251", "1/15", "", "16", "-1/16"],
    ),
    (
        "coin_flip",
        "0.00001",
        {"rational": {"numerator": 1, "denominator": 100_000}},
        ["1/100000"],
        ["0", "0.0001"],
    ),
    (
        "simple_integration",
        "X**3 + C",
        {"integrand": "3*X**2", "variable": "X"},
        ["X**3 + C", "X^3", "X*X*X + 7", "(2*X**3)/2 + K", "X**3 - 1/2", "C1 + X**3"],
        [
            "Integral(3*X**2, X)",
            "integrate(3*X**2, X)",
            "3*X**2",
            "X**3 + X",
            "-X**3",
            "X**3 + C*X",
            "",
            "C",
            "0",
            "X**3 + C; import os",
            "__import__('os').getpid()",
            "X**3 if 1 else 0",
            "diff(X**4/4, X)",
            "X.real",
            "X**3 + 1e-44*X",
            "X**3 + X/10**29",
            "9**9**9**9",
            "X**99999999",
            "lambda: 0",
            "X**3 + (C",
            "X**3 + x",
            "X**3 + C X**2",
        ],
    ),
    (
        "intermediate_integration",
        "-3*x*asin(2*x) - 3*sqrt(1 - 4*x**2)/2 + C",
        INTEGRAL,
        ["-3*x*asin(2*x) - 3*sqrt(1 - 4*x**2)/2 + C", "-3*(x*asin(2*x) + sqrt((1-2*x)*(1+2*x))/2)"],
        [
            "Integral(-3*asin(2*x), x)",
            "-3*asin(2*x)",
            "-3*x*asin(2*x)",
            "3*x*asin(2*x) + 3*sqrt(1 - 4*x**2)/2",
        ],
    ),
    (
        "intermediate_integration",
        "log(x**2 + 1) + C",
        {"integrand": "2*x/(x**2 + 1)", "variable": "x"},
        ["log(x**2 + 1)", "ln(1 + x**2) + C", "log(3*x**2 + 3)", "log(sqrt(x**2+1))*2"],
        ["log(x**2 + 2)", "log(x)"],
    ),
    (
        "puzzle24",
        "8*(3/3 + 2)",
        {"numbers": [3, 3, 2, 8]},
        ["8*(3/3 + 2)", "(2 + 3/3) × 8", "8 * (2+3÷3)"],
        [
            "6*4*1*1",
            "24",
            "8*3",
            "3*8*2/2",
            "8*(3/3+2)+0",
            "8*(3/3+2)=24",
            "8*(3//3+2)",
            "3**2+8+3",
            "",
            "8*(3/0+2)",
            "__import__('os').getpid()",
            "8*(3/3+2) or 1",
            "8.0*(3/3+2)",
            "True*24",
        ],
    ),
    (
        "countdown",
        "5*4 + 1",
        {"numbers": [5, 4, 1], "target": 21},
        ["4*5 + 1", "1+(5*4)"],
        ["21", "5*4", "5*4 + 1 + 0", "20 + 1", "5*4+1*1", "[5*4 + 1]", "1 + 4*5 # or 7"],
    ),
    (
        "gsm_symbolic",
        "83",
        {},
        ["83", "83.0", " +83", "$83", "083"],
        ["-83", "83 or 84", "84", "8.3", "it is 83", "83%", "83/2", "1,83", "٨٣", "nan", "", "83\n84"],
    ),
    ("gsm_symbolic", "-4", {}, ["-4", "\u22124"], ["4", "--4", "- 4 4"]),
    (
        "number_sorting",
        "['-89.0', '10.0', '72.6']",
        {"direction": "ascending"},
        ["['-89.0', '10.0', '72.6']", '["-89", "10", "72.60"]', "[-89.0, 10, 72.6]"],
        [
            "['-89.0', '10.0', '72.7']",
            "['-88.5', '10.0', '72.6']",
            "['10.0', '-89.0', '72.6']",
            "['-89.0', '10.0']",
            "['72.6', '10.0', '-89.0']",
            "-89.0, 10.0, 72.6",
            "[]",
            "",
            "['nan', '10.0', '72.6']",
        ],
    ),
    ("decimal_arithmetic", "3.24451468703", {}, ["3.24451468703"], ["3.24451468702", "3.2445", "3.245", "3"]),
    (
        "decimal_chain_sum",
        "31802.0300",
        {},
        ["31802.03", "31,802.0300"],
        ["31802.0301", "3180,2.03", "31802"],
    ),
    ("chain_sum", "1920", {}, ["1920", "1,920", "1920.00"], ["1,9,2,0", "19,20", "192", "1920 1", "1_920"]),
    (
        "number_format",
        "393941193.49",
        {},
        ["393,941,193.49", "3.9394119349e8"],
        ["393941193.495", "393941193.48"],
    ),
    (
        "complex_arithmetic",
        "8.0 + 4.0i",
        {},
        ["8+4i", "8.0 + 4.0i", "(8 + 4i)", "8+4j", "8.00+4i"],
        ["nan", "nan+nani", "0 8+4i", "8-4i", "4+8i", "8", "4i", "8+4", "8+4.1i", "inf", ""],
    ),
    ("complex_arithmetic", "-1.0i", {}, ["-i", "-1i", "0 - i"], ["i", "-1", "0", "1-i"]),
    (
        "power_function",
        "1.9031145207918732e+21",
        {},
        ["1.90e+21", "1.90e21", "1.9e21", "1903114520791873200000"],
        ["1.91e+21", "1.9031e+21", "1.9031145207918733e+21", "1.90e+20", "-1.90e+21", "1.90"],
    ),
    ("power_function", "-0.0012355", {}, ["-1.24e-3", "-0.00124", "-0.0012355"], ["-1.23e-3", "1.24e-3"]),
    (
        "pool_matrix",
        "6 9.416666\n9 8",
        {},
        ["6 9.42\n9 8", "6.0 9.416666\n9 8"],
        ["6 9.41\n9 8", "6 9.4\n9 8", "6.05 9.42\n9 8", "6 9.42 9 8", "6 9.42\n8 9", "6 9.42"],
    ),
    (
        "fraction_simplification",
        "$\\dfrac{279}{404}$",
        {},
        ["$\\dfrac{279}{404}$", "\\frac{279}{404}", "279/404"],
        ["\\frac{279}{404} + 1", "\\frac{279}{404}5", "558/808", "404/279", "-279/404", "0.69"],
    ),
    ("bitwise_arithmetic", "-0x17dec", {}, ["-0x17dec", "-0X17DEC"], ["0x17dec", "-0x17ded", "17dec", "os"]),
    (
        "advanced_geometry",
        "(10.000, 122.125)",
        {},
        ["(10.000, 122.125)", "10, 122.125"],
        ["(10.000, 122.126)", "(122.125, 10.000)", "(10.000, 122.125), 1)", "(10, 122.1254)", "(10)"],
    ),
    ("advanced_geometry", "61.234\u00b0", {}, ["61.234\u00b0", "61.234"], ["61.23", "61.235", "61.234 61"]),
    (
        "game_of_life",
        "[[0,1],[1,0]]",
        {},
        ["[[0,1],[1,0]]", "[[0, 1], [1, 0]]"],
        [
            "[[0,1],[1,0],[1,1]]",
            "[[0,1,1],[1,0,1]]",
            "[[0,1],[1,1]]",
            "[[0,1]]",
            "[[false,true],[true,false]]",
            "[]",
        ],
    ),
    (
        "arc_agi",
        GRID,
        {"output": [[1, 2], [3, 4]]},
        [GRID, "1 2 \n 3  4"],
        ["1 2\n3 5", "1 2 3 4", "", "[[1,2],[3,4]]"],
    ),
    ("rearc", GRID, {"output": [[1, 2], [3, 4]]}, [GRID], ["1 2", "1 2\n3 4\n5 6"]),
    ("binary_matrix", GRID, {}, [GRID], ["[[1,2],[3,4]]", "4 3\n2 1"]),
    ("spiral_matrix", "1 2 4 3", {}, ["1 2 4 3"], ["[1,2,4,3]", "1 2 3 4"]),
    ("string_insertion", "DEDCC", {}, ["DEDCC"], ["['D','E','D','C','C']", "DEDC"]),
    ("spell_backward", "ruel", {}, ["ruel", "RUEL"], ["ruelx", "leur"]),
    (
        "figlet_font",
        "DARTINGLYSO",
        {},
        ["dartinglyso", "D A R T I N G L Y S O"],
        ["dartinglysoX", "dartinglysX"],
    ),
    (
        "letter_jumble",
        "will be linked",
        {},
        ["Will be linked"],
        ["will be linked now", "be will linked", "will be"],
    ),
    (
        "word_sorting",
        "yes, often",
        {},
        ["yes, often", "yes,often"],
        ["yes, often, often", "often, yes", "yes"],
    ),
    (
        "time_intervals",
        "07:39:38.372",
        {},
        ["07:39:38.372"],
        ["07:39:38.0372", "07:39:38.372:9", "07:39:39.372"],
    ),
    ("time_intervals", "42 days", {}, ["42 days"], ["42 years", "41 days", "42 days 3"]),
    (
        "kakurasu",
        "0 1\n1 0",
        SUMS,
        ["0 1\n1 0"],
        ["1 0\n0 1", "0 1\n1 0 x", "0 1", "row 0 1\nrow 1 0", "1 1\n1 1"],
    ),
    (
        "knights_knaves",
        "David is a hero, and Ann is a knave.",
        {},
        [
            "David is a hero, and Ann is a knave.",
            "Ann is a knave, David is a hero",
            "David is hero and Ann is knave",
        ],
        [
            "David is a knave, and Ann is a hero.",
            "David is a hero knave, and Ann is a knave",
            "David is a hero",
            "David is a hero, David is a knave, Ann is a knave",
            "David is a hero, Ann is a knave, Bob is a hero",
        ],
    ),
    (
        "n_queens",
        BOARDS[0],
        {"valid_answers": BOARDS},
        BOARDS,
        ["_ Q _ _\n_ _ _ Q", "__import__('os').getpid()", ""],
    ),
    (
        "palindrome_partitioning",
        "",
        {"solution": PARTITIONS},
        ['[["aa"], ["a", "a"]]'],
        ['[["aa"]]', '["aa", ["aa"]]', '[["aa"], ["a", "a"], ["aa"]]', "[]", "", '[["aa"], ["b", "b"]]'],
    ),
    (
        "polynomial_equations",
        "-3.2105, 0.0",
        {},
        ["-3.2105, 0.0", "0, -3.2105"],
        ["-3.2105", "-3.2105, 0.0, 0.0", "-3.2106, 0.0", "-3.2105, 0.0, x", "", "nan, nan"],
    ),
    ("polynomial_equations", "", {}, ["", '""'], ["0", "none", "any text"]),
    (
        "polynomial_multiplication",
        "x**2 + 3*x*y",
        {},
        ["3*x*y + x**2"],
        ["x*(x + 3*y)", "x**2", "print(1)", ""],
    ),
    ("survo", "9 7 16\n1 2 3", {}, ["9 7 16\n1 2 3"], ["9 7 16\n1 2 4", "a 9 7 16\n1 2 3", "7 9 16\n1 2 3"]),
]


@pytest.mark.parametrize(
    ("family", "reference", "about", "right", "wrong"), CASES, ids=[case[0] for case in CASES]
)
def test_right_answers_are_right_and_wrong_ones_wrong(family, reference, about, right, wrong):
    entry = {"question": "?", "answer": reference, "metadata": about}
    assert [text for text in right if not is_right(family, {}, entry, text)] == []
    assert [text for text in wrong if is_right(family, {}, entry, text)] == []


@pytest.mark.parametrize(
    "family", ["puzzle24", "simple_integration", "polynomial_multiplication", "gsm_symbolic"]
)
@pytest.mark.parametrize(
    "answer", ["(" * 1900, "9**" * 600 + "9", "-" * 1900 + "1", "1+" * 999 + "1", "9" * 1900, "sin(" * 300]
)
def test_answers_that_are_meant_to_hang_a_reader_do_not(family, answer):
    about = {"numbers": [1], "integrand": "x", "variable": "x"}
    start = time.process_time()
    assert not is_right(family, {}, {"question": "?", "answer": "x**2/2", "metadata": about}, answer)
    assert time.process_time() - start < 5.0


@pytest.mark.parametrize("about", [{}, {"integrand": "x"}, {"integrand": 3, "variable": "x"}])
def test_an_entry_without_its_integrand_is_no_wrong_answer(about):
    with pytest.raises(NotReadable):
        is_right("intermediate_integration", {}, {"question": "?", "answer": "", "metadata": about}, "x")
    unread = {"integrand": "Integral(x, x)", "variable": "x"}
    with pytest.raises(NotReadable):
        is_right("simple_integration", {}, {"question": "?", "answer": "", "metadata": unread}, "x")


def test_what_differs_between_processes_is_no_part_of_an_entry():
    about = {"integrand": "-2*sin(x + 9)*cos(x + 9)", "variable": "x"}
    forms = ["cos(x + 9)**2 + C", "-sin(x + 9)**2 + C", "Integral(0, x)"]
    entries = [{"question": "?", "answer": form, "metadata": about} for form in forms]
    (entry,) = {str(settled("intermediate_integration", entry)) for entry in entries}
    assert "'answer': 'Integral(-2*sin(x + 9)*cos(x + 9), x)'" in entry
    assert settled("chain_sum", entries[0]) == entries[0]
    assert all(is_right("intermediate_integration", {}, entries[0], form) for form in forms[:2])
