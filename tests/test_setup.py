"""The set-up's search for a Python, and the pins that it installs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SETUP = ROOT / "scripts" / "setup.sh"
TOOLS = ("bash", "dirname", "sort")
WORKING = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"


@pytest.fixture
def machine(tmp_path):
    """A machine with the tools the script needs and no Python on PATH or in HOME; `put` adds one."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "home").mkdir()
    for tool in TOOLS:
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool) or pytest.fail(f"no {tool}"))

    class Machine:
        bin, home = tmp_path / "bin", tmp_path / "home"

        def put(self, place, script):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(f"#!{self.bin}/bash\n{script}\n")
            place.chmod(0o755)
            return place

        def which(self, **env):
            env = {"PATH": str(self.bin), "HOME": str(self.home), **env}
            command = [str(self.bin / "bash"), str(SETUP), "--which"]
            return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    return Machine()


GOOD = f'exec {WORKING} "$@"'
BROKEN_SHIM = 'echo "pyenv: python3.12: command not found" >&2; exit 127'
TOO_NEW = "echo False"  # what the script's question gives on Python 3.14


def pyenv(machine, version):
    return machine.home / ".pyenv" / "versions" / version / "bin" / "python"


def test_a_python_on_the_path_is_taken(machine):
    python = machine.put(machine.bin / "python3.12", GOOD)
    assert machine.which().stdout == f"{python}\n"


def test_a_shim_that_fails_is_passed_over(machine):
    machine.put(machine.bin / "python3.12", BROKEN_SHIM)
    python = machine.put(pyenv(machine, "3.12.9"), GOOD)
    assert machine.which().stdout == f"{python}\n"


def test_a_home_with_a_space_is_searched(machine):
    machine.home = machine.home / "of two words"
    python = machine.put(pyenv(machine, "3.12.9"), GOOD)
    assert machine.which().stdout == f"{python}\n"


def test_the_newest_3_12_comes_before_3_13(machine):
    machine.put(pyenv(machine, "3.13.0"), GOOD)
    machine.put(pyenv(machine, "3.12.9"), GOOD)
    newest = machine.put(pyenv(machine, "3.12.11"), GOOD)
    assert machine.which().stdout == f"{newest}\n"


def test_the_interpreter_that_the_user_names_is_taken(machine):
    machine.put(machine.bin / "python3.12", GOOD)
    named = machine.put(machine.home / "mine", GOOD)
    assert machine.which(PYTHON=str(named)).stdout == f"{named}\n"


def test_a_named_interpreter_that_fails_is_an_error_and_not_replaced(machine):
    machine.put(machine.bin / "python3.12", GOOD)
    named = machine.put(machine.home / "mine", BROKEN_SHIM)
    result = machine.which(PYTHON=str(named))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"setup: PYTHON={named} is not a working Python 3.12 or 3.13")


@pytest.mark.skipif(
    any(
        Path(folder, f"python3.{minor}").exists()
        for folder in ("/usr/bin", "/usr/local/bin")
        for minor in (12, 13)
    ),
    reason="the system's own Python would serve",
)
def test_without_any_python_one_line_says_how_to_get_one(machine):
    machine.put(machine.bin / "python3", TOO_NEW)
    result = machine.which()
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(
        r"setup: no working Python 3\.12 or 3\.13 here; get one .*make setup PYTHON=.*\n", result.stderr
    )


@pytest.mark.parametrize(
    ("file", "needed"),
    [
        ("requirements.txt", {"torch", "megatron-core", "pytest", "ruff", "pyright", "setuptools"}),
        ("requirements-nemo.txt", {"torch", "megatron-core", "pytest", "nemo-toolkit", "setuptools"}),
    ],
)
def test_the_pins_are_complete_and_name_no_place(file, needed):
    pins = (ROOT / file).read_text().splitlines()
    assert all(re.fullmatch(r"[a-z0-9-]+==[a-z0-9.]+", pin) for pin in pins)
    assert needed <= {pin.partition("==")[0] for pin in pins}


def test_both_environments_have_the_same_torch_and_megatron():
    both = [(ROOT / file).read_text().splitlines() for file in ("requirements.txt", "requirements-nemo.txt")]
    ours, nemo = ({pin for pin in pins if pin.startswith(("torch=", "megatron-core="))} for pins in both)
    assert len(ours) == 2
    assert ours == nemo


def test_no_target_of_the_makefile_lacks_its_line_of_help():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    env = {**os.environ, "MAKEFLAGS": ""}
    out = subprocess.run(
        ["make", "-C", str(ROOT), "help"], capture_output=True, text=True, check=True, env=env
    ).stdout
    assert {line.split()[0] for line in out.splitlines() if not line.startswith("make")} == targets
