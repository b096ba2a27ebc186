import json
import re
import shutil
import subprocess

import pytest

from megatron_r1.curation.card import Card
from megatron_r1.report.html import pieces, write_report
from megatron_r1.tracking.jsonl import JsonLines
from tests.report.made_run import finish, make_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
]  # fmt: skip
SECTIONS = [
    "Checkpoints on the same held-out questions",
    "Reinforcement learning: zero",
    "The same questions before and after",
    "Pre-training and fine-tuning",
    "Stages",
    "Configuration",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_report(make_run(tmp_path_factory.mktemp("runs") / "made-up"))


def test_the_report_is_one_small_file_that_asks_for_nothing_else(made):
    page = made.read_text(encoding="utf-8")
    assert 50_000 < len(page.encode()) < 400_000
    assert re.findall(r"(?:https?:)?//|url\(|@import|<script|<img|<link|\ssrc=|\shref=", page) == []
    assert [path.name for path in made.parent.iterdir() if path.is_file()] == ["report.html"]


def test_the_headline_table_and_findings_carry_the_runs_numbers(made):
    page = made.read_text(encoding="utf-8")
    assert re.findall(r"<h2>(.+)</h2>", page) == SECTIONS
    for text in (
        "deepseek_v3, 2 layers",
        "ranks 2, expert 2",
        "91.4 %",
        "9.8 % before",
        "pretrain · 900 steps · 54 s",
    ):
        assert text in page
    # sqrt(.098 * .902 / 384) = .0152 and sqrt(.914 * .086 / 384) = .0143
    row = re.search(r"<code>eval/accuracy</code>.*?</tr>", page, re.DOTALL)
    assert row is not None
    cells = re.findall(r"<td(?: class=\"(\w*)\")?>([^<]+)(?:<small>([^<]+)</small>)?</td>", row[0])
    assert cells == [("", "9.8 %", "± 1.5 %"), ("", "91.4 %", "± 1.4 %"), ("better", "+81.6 points", "")]
    assert "74.2 % of the questions were already solved in at least one of k tries" in page


def test_samples_of_one_question_stand_side_by_side_in_both_languages(made):
    page = made.read_text(encoding="utf-8")
    questions = re.findall(r'<header><b>(compute|计算)[^<]+</b>\s*<span class="soft">(en|zh)', page)
    assert questions[:6] == [("compute", "en")] * 3 + [("计算", "zh")] * 3
    assert len(questions) == 7  # and the one that still goes wrong
    assert page.count("the question that goes worst after") == 1
    assert '<span class="tag">&lt;think&gt;</span>' in page


def test_what_models_and_users_wrote_is_escaped(tmp_path):
    page = write_report(make_run(tmp_path / "hostile", hostile=True)).read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_a_run_with_hardly_anything_says_what_was_not_measured(tmp_path):
    JsonLines(tmp_path / "zero").log(1, {"train/reward": 0.1})
    (tmp_path / "zero" / "resolved.yaml").write_text("stage: {kind: grpo}")
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "unfinished" in page
    assert "Not measured: language of the reasoning, distance from the reference, entropy" in page
    assert page.count('<p class="none">not measured') == 5  # two charts, table, samples, losses
    assert "not recorded" in page


def test_a_run_without_rl_still_has_a_report(tmp_path):
    finish(tmp_path / "before", "evaluate", None, {"eval/accuracy": 0.5})
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "the run has no stage of kind grpo" in page
    assert "50.0 %" in page


def test_a_change_within_two_standard_errors_has_no_colour(tmp_path):
    finish(tmp_path / "after", "evaluate", "before", {"eval/mixed": 0.14, "eval/mixed_stderr": 0.03})
    finish(tmp_path / "before", "evaluate", None, {"eval/mixed": 0.10, "eval/mixed_stderr": 0.03})
    assert '<td class="">+4.0 points</td>' in write_report(tmp_path).read_text(encoding="utf-8")
    finish(tmp_path / "after", "evaluate", "before", {"eval/mixed": 0.24, "eval/mixed_stderr": 0.03})
    assert '<td class="worse">+14.0 points</td>' in write_report(tmp_path).read_text(encoding="utf-8")


CHAIN = """\
models: {student: {model: {family: qwen2}}}
stages:
  measure_base: {kind: evaluate, init: base}
  zero: {kind: grpo, init: base}
  measure_zero: {kind: evaluate, init: zero}
  zero_one_shot: {kind: evaluate, init: zero, evaluation: {few_shot: {shots: 1}}}
  distilled: {kind: sft, model: student}
  measure_student: {kind: evaluate, init: distilled}
"""


def test_the_change_is_that_of_one_model_asked_in_one_way(tmp_path):
    accuracies = {"measure_base": 0.1, "measure_zero": 0.7, "zero_one_shot": 0.5, "measure_student": 0.9}
    for name, value in accuracies.items():
        init = {"measure_base": "base", "measure_student": "distilled"}.get(name, "zero")
        finish(tmp_path / name, "evaluate", init, {"eval/accuracy": value})
        (tmp_path / name / "resolved.yaml").write_text(CHAIN)
    finish(tmp_path / "zero", "grpo", "base", {"train/reward": 0.5})
    (tmp_path / "zero" / "resolved.yaml").write_text(CHAIN)
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "from base to zero, " in page
    assert ">+60.0 points</td>" in page
    assert "pass@1 on held-out questions went from 10.0 % to 70.0 %." in page  # the RL stage's own two
    assert "<th>distilled<small>student</small></th>" in page
    assert "<td>90.0 %</td>" in page
    assert re.search(r"<td>zero</td><td>not recorded, after 1 solved</td><td>50.0 %</td>", page)


def test_a_data_card_says_what_was_kept_and_why_the_rest_was_not(tmp_path):
    card = Card()
    kept = {"source": "maths", "tokens": 12, "id": "a", "language": "en"}
    lines = [kept, *[{"source": "maths", "tokens": 3, "dropped": why} for why in ("wrong", "wrong", "mixed")]]
    assert len(list(card.counting(lines))) == 4
    about = {"init": "zero", "weights": "ab" * 32, "prompts": 1, "samples_a_prompt": 4, "temperature": 1.0}
    finish(tmp_path / "rejection", "rejection_sampling", "zero", {"rollout/kept": 0.25})
    (tmp_path / "rejection" / "data_card.json").write_text(json.dumps(card.content(**about)))
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "<h2>Data cards</h2>" in page
    assert "<th>wrong</th><th>mixed</th>" in page
    assert re.search(r"<td>maths</td><td>4</td><td>1</td>\s*<td>2</td><td>1</td>", page)
    assert "1 prompts × 4 samples at T = 1.0" in page


def test_pairs_have_a_data_card_and_reward_models_a_table(tmp_path):
    names = ("accuracy", "accuracy_stderr", "loss", "calibration", "length_bias")
    measured = dict(zip(names, (0.885, 0.033, 0.25, 0.06, 0.19), strict=True))
    finish(tmp_path / "pairs", "preference_pairs", "dev3", {"rollout/kept": 0.5})
    card = {"sampled": 4, "kept": 2, "dropped": {"same": 1, "margin": 1}, "mean_tokens_chosen": 15.1}
    card |= {"mean_tokens_rejected": 14.8, "weights": "ab" * 32}
    (tmp_path / "pairs" / "data_card.json").write_text(json.dumps(card))
    metrics = {f"eval/preference_{name}": value for name, value in measured.items()}
    finish(tmp_path / "helpful", "reward_model", "dev3", metrics)
    finish(tmp_path / "r1", "grpo", "dev3", {})
    JsonLines(tmp_path / "r1").log(0, {"watch/judged": 0.5, "watch/score_helpful": -1.5})
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert re.search(r"<td>4</td><td>2</td><td>1</td><td>1</td>", page)
    assert "<td>helpful</td><td>88.5 % ± 3.3 %</td><td>0.25</td><td>6.0 %</td><td>0.19</td>" in page
    assert "Held-out general prompts: the judge" in page


def test_text_is_cut_into_tags_thinking_answer_and_the_rest():
    assert pieces("<think> 3 < 4 </think><answer> 7 </answer> ok") == [
        ("tag", "<think>"),
        ("think", " 3 < 4 "),
        ("tag", "</think>"),
        ("tag", "<answer>"),
        ("answer", " 7 "),
        ("tag", "</answer>"),
        ("plain", " ok"),
    ]
    assert pieces("x" * 1600)[-1] == ("more", " … 100 more characters")


def rendered(page, profile):
    """The page's DOM after a real browser has loaded it, and what it logged to the console."""
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
def test_a_browser_shows_all_of_it_without_a_complaint(made, tmp_path):
    dom, complaints = rendered(made, tmp_path / "profile")
    assert complaints == []
    assert [heading for heading in SECTIONS if f"<h2>{heading}</h2>" not in dom] == []
    # the chain, 2 of the paper, 10 behind them, 2 a pretrain stage
    assert dom.count("<svg") == dom.count("</svg>") == 17
    assert "91.4 %" in dom


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
def test_the_pages_own_policy_refuses_what_comes_from_elsewhere(made, tmp_path):
    page = tmp_path / "report.html"
    page.write_text(made.read_text(encoding="utf-8").replace("</main>", "<script>1</script></main>"))
    _, complaints = rendered(page, tmp_path / "profile")
    assert any("Content Security Policy" in line for line in complaints)


def test_one_rank_is_a_layout(tmp_path):
    finish(tmp_path / "base", "sft", None, {})
    config = tmp_path / "base" / "resolved.yaml"
    config.write_text("layout: {ranks: 1, tensor: 1, overlap: true}\nstages: {base: {kind: sft}}")
    assert "<dt>layout</dt><dd>one rank</dd>" in write_report(tmp_path).read_text()
