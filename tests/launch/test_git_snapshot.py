"""Which code a run was made with: a commit where git holds this file, else the installed version."""

import subprocess
import sysconfig
from pathlib import Path

import pytest

from megatron_r1 import __version__
from megatron_r1.launch import git_snapshot
from tests.launch.slurm.test_script import render


@pytest.fixture
def in_folder(monkeypatch):
    """Puts this package into another folder, for what asks where it lies."""

    def put(folder: Path) -> None:
        monkeypatch.setattr(git_snapshot, "REPOSITORY", folder)
        monkeypatch.setattr(git_snapshot, "__file__", str(folder / "megatron_r1" / "launch" / "code.py"))

    return put


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    done = subprocess.run(
        ["git", "-C", str(folder), *who, *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path, in_folder):
    """A repository that holds this package's files, at one commit."""
    file = tmp_path / "megatron_r1" / "launch" / "code.py"
    file.parent.mkdir(parents=True)
    file.write_text("one\n")
    in_folder(tmp_path)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "one")
    return tmp_path


def test_a_checkout_names_its_commit_and_keeps_its_changes(project, tmp_path):
    commit = git(project, "rev-parse", "HEAD")
    assert git_snapshot.commit() == commit
    (project / "megatron_r1" / "launch" / "code.py").write_text("two\n")
    assert git_snapshot.commit() == f"{commit}+changes"
    git_snapshot.keep(tmp_path)
    assert "+two" in (tmp_path / "code.diff").read_text()


def test_the_commit_of_a_project_that_holds_the_environment_is_not_this_codes(project, in_folder):
    inside = project / ".venv" / "site-packages"
    (inside / "megatron_r1" / "launch").mkdir(parents=True)
    (inside / "megatron_r1" / "launch" / "code.py").touch()
    in_folder(inside)
    assert git_snapshot.commit() == f"megatron-r1 {__version__}"
    git_snapshot.keep(project)
    assert (project / "code.txt").read_text() == f"megatron-r1 {__version__}\n"
    assert not (project / "code.diff").exists()


def test_site_packages_are_put_before_nothing(in_folder):
    assert "\nexport PYTHONPATH=" in render()
    in_folder(Path(sysconfig.get_path("purelib")))
    assert "PYTHONPATH" not in render()
