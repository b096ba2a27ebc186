"""The command line: it answers fast, takes overrides anywhere, and shows an R1Error without a traceback."""

import errno
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

from megatron_r1 import __version__, cli
from megatron_r1.errors import ConfigError, Interrupted

REPOSITORY = Path(__file__).parents[1]
HEAVY = {"torch", "pydantic", "rich", "numpy", "matplotlib", "megatron", "ruamel", "transformers"}


@pytest.fixture
def stub(monkeypatch):
    """Puts a module with one function in the place of the one that a command imports."""

    def put(module, **functions):
        monkeypatch.setitem(sys.modules, module, types.SimpleNamespace(**functions))

    return put


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom megatron_r1.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "run" in out
    assert HEAVY.isdisjoint(out.splitlines()[-1].split())


@pytest.mark.slow
def test_check_starts_no_megatron_and_says_nothing_but_its_report():
    code = (
        "import sys\nfrom megatron_r1.cli import main\n"
        "main(['check', 'conf/tiny_zero.yaml'])\n"
        "print('megatron' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.stdout.startswith("tiny_zero: no problems found")
    assert done.stdout.splitlines()[-1] == "False"
    assert done.stderr == ""


@pytest.mark.slow
def test_commands_leave_room_for_plug_ins_until_they_have_read_the_configuration():
    code = (
        "import megatron_r1.check.findings, megatron_r1.launch.local, megatron_r1.launch.slurm.submit\n"
        "import megatron_r1.run.chain\n"
        "from megatron_r1.registry import families, losses, rewards, sources, stages\n"
        "print([known.cache_info().currsize for known in (families, losses, rewards, sources, stages)])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[0, 0, 0, 0, 0]"


@pytest.mark.parametrize(
    "command", ["run", "check", "plan", "submit", "status", "logs", "cancel", "schema", "report", "doctor"]
)
def test_every_command_shows_an_example(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main([command, "--help"])
    assert f"example:\n  megatron-r1 {command} " in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"megatron-r1 {__version__}\n"


@pytest.mark.parametrize(
    "words",
    [
        ["run", "conf/a.yaml", "a.b=1", "c=2", "--from", "sft", "--profile", "--run-dir", "out"],
        ["run", "--profile", "--from", "sft", "conf/a.yaml", "a.b=1", "--run-dir", "out", "c=2"],
        ["run", "conf/a.yaml", "--run-dir=out", "a.b=1", "--profile", "c=2", "--from=sft"],
    ],
)
def test_overrides_stand_before_or_after_the_options(words, stub):
    calls = []
    stub("megatron_r1.launch.local", launch=lambda path, **rest: calls.append((path, rest)) or 0)
    assert cli.main(words) == 0
    options = {
        "overrides": ["a.b=1", "c=2"],
        "from_stage": "sft",
        "run_dir": Path("out"),
        "profile": True,
    }
    assert calls == [(Path("conf/a.yaml"), options)]


def test_options_left_out_are_none(stub):
    calls = []
    stub("megatron_r1.launch.local", launch=lambda path, **rest: calls.append(rest) or 0)
    cli.main(["run", "a.yaml"])
    assert calls == [{"overrides": [], "from_stage": None, "run_dir": None, "profile": False}]


@pytest.mark.parametrize(
    "words",
    ["", "run", "runn a.yaml", "run a.yaml --form x", "run a.yaml --from x word", "doctor a b=c"],
)
def test_words_that_mean_nothing_are_refused(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(words.split())
    assert "error: " in capsys.readouterr().err


def test_the_exit_code_of_a_run_is_the_commands(stub):
    stub("megatron_r1.launch.local", launch=lambda path, **rest: 6)
    assert cli.main(["run", "a.yaml"]) == 6


@pytest.mark.parametrize(
    ("error", "code"), [(ConfigError("a.yaml:3: no key 'lrr'"), 2), (Interrupted("b"), 75)]
)
def test_an_error_of_the_user_is_one_line_and_its_exit_code(error, code, stub, capsys):
    def check(path, **rest):
        raise error

    stub("megatron_r1.check.findings", check=check)
    assert cli.main(["check", "a.yaml"]) == code
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"error: {error}\n")


def test_a_full_disk_is_one_line(stub, capsys):
    def check(path, **rest):
        raise OSError(errno.ENOSPC, "No space left on device", "runs/a/report.html")

    stub("megatron_r1.check.findings", check=check)
    assert cli.main(["check", "a.yaml"]) == 1
    assert capsys.readouterr().err == "error: runs/a/report.html: No space left on device\n"


@pytest.mark.slow
def test_a_reader_that_leaves_early_gets_no_traceback():
    command = f"{sys.executable} -m megatron_r1 schema | head -c 10"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=REPOSITORY)
    assert (len(done.stdout), done.stderr) == (10, "")


def test_our_own_mistake_keeps_its_traceback(stub):
    def check(path, **rest):
        raise AssertionError("ours")

    stub("megatron_r1.check.findings", check=check)
    with pytest.raises(AssertionError):
        cli.main(["check", "a.yaml"])


def test_check_prints_the_report(stub, capsys):
    stub(
        "megatron_r1.check.findings",
        check=lambda path, *, overrides, files, data: f"{path} {overrides} {files}",
    )
    assert cli.main(["check", "a.yaml", "x=1"]) == 0
    assert capsys.readouterr().out == "a.yaml ['x=1'] True\n"


def test_schema_is_printed_or_written_for_editors(stub, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stub("megatron_r1.run.config", json_schema=lambda: {"title": "Run"})
    assert cli.main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == {"title": "Run"}
    assert not (tmp_path / "conf").exists()
    assert cli.main(["schema", "--write"]) == 0
    assert json.loads((tmp_path / "conf" / "schema.json").read_text()) == {"title": "Run"}


def test_report_names_the_page_it_wrote(stub, capsys):
    stub("megatron_r1.report.html", write_report=lambda run_dir, out: out or run_dir / "report.html")
    assert cli.main(["report", "runs/a"]) == 0
    assert capsys.readouterr().out == "wrote runs/a/report.html\n"
    assert cli.main(["report", "runs/a", "--out", "b.html"]) == 0
    assert capsys.readouterr().out == "wrote b.html\n"
