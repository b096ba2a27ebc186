from dataclasses import replace

from megatron_r1 import registry
from megatron_r1.report.findings import Finding, reflection_by_step
from megatron_r1.report.html import write_report
from megatron_r1.tracking.samples import Sample
from tests.report.made_run import make_run


def test_words_of_re_evaluation_are_counted_by_step_in_both_languages():
    blank = Sample(1, "a", "integer", "en", "q", "7", "", 0.0, {}, 1, True, 0)
    texts = [(1, "so wait 7"), (1, "plain"), (2, "等等 7"), (2, "Wait"), (3, "awaiting")]
    samples = [replace(blank, step=step, text=text) for step, text in texts]
    assert reflection_by_step(samples) == [(1, 0.5), (2, 1.0), (3, 0.0)]


def test_a_report_has_findings_only_where_a_plug_in_makes_them(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "findings", list)
    page = write_report(make_run(tmp_path / "made-up")).read_text(encoding="utf-8")
    assert "What this shows" not in page
    monkeypatch.setattr(registry, "findings", lambda: [lambda *_: [Finding("It learns", "in part", "a <b>")]])
    page = write_report(tmp_path / "made-up").read_text(encoding="utf-8")
    assert "What this shows" in page
    assert "a &lt;b&gt;" in page
