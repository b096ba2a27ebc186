"""The doctor's table and exit code."""

import sys

import pytest

from megatron_r1 import cli, doctor
from megatron_r1.doctor.finding import Finding, Status

GOOD = Finding("1.0", "everything", essential=True)
OPTION = Finding("absent", "extras", Status.ABSENT, "apt-get install extra")
BAD = Finding("missing", "everything", Status.BROKEN, "make clean setup", essential=True, note="It is gone.")


@pytest.fixture
def probes(monkeypatch):
    def put(**findings):
        monkeypatch.setattr(doctor, "PROBES", {name: lambda f=f: f for name, f in findings.items()})

    return put


def test_an_option_that_is_absent_does_not_fail(probes, capsys):
    probes(torch=GOOD, extra=OPTION)
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "1.0" in out
    assert "to get extra: apt-get install extra\n" in out


def test_a_core_that_is_missing_fails(probes, capsys):
    probes(torch=BAD, extra=OPTION)
    assert cli.main(["doctor"]) == 1
    assert "to mend torch: make clean setup\n" in capsys.readouterr().out


def test_one_name_is_explained(probes, capsys):
    probes(torch=BAD, extra=OPTION)
    assert cli.main(["doctor", "torch"]) == 1
    assert "It is gone." in capsys.readouterr().out
    assert cli.main(["doctor", "extra"]) == 0


def test_an_unknown_name_lists_the_known(probes, capsys):
    probes(torch=GOOD, extra=OPTION)
    assert cli.main(["doctor", "torhc"]) == 1
    assert capsys.readouterr().err == "error: doctor: no check is called 'torhc'; there are torch, extra\n"


def test_the_table_is_plain_where_rich_is_missing(probes, capsys, monkeypatch):
    for module in ("rich.console", "rich.table"):
        monkeypatch.setitem(sys.modules, module, None)
    probes(torch=BAD)
    assert cli.main(["doctor"]) == 1
    assert "BROKEN  torch" in capsys.readouterr().out


@pytest.mark.slow
def test_this_machine_can_run_the_core(capsys):
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in doctor.PROBES)
