import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from megatron_r1.errors import ConfigError
from megatron_r1.runtime import run_lock


def held_by_a_process(run_dir):
    code = (
        "import sys; from pathlib import Path; from megatron_r1.runtime.run_lock import hold\n"
        "with hold(Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(run_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"held\n"
    return process


def test_a_run_directory_that_a_live_process_holds_is_refused_in_words(tmp_path):
    with held_by_a_process(tmp_path) as holder:
        since = json.loads((tmp_path / ".lock").read_text())["since"]
        with pytest.raises(run_lock.RunLockedError) as refusal, run_lock.hold(tmp_path):
            pass
        holder.communicate()
    for part in (str(tmp_path), os.uname().nodename, f"pid {holder.pid}", since, "another name"):
        assert part in str(refusal.value)


def test_the_lock_of_a_killed_process_blocks_nobody(tmp_path):
    with held_by_a_process(tmp_path) as holder:
        holder.send_signal(signal.SIGKILL)
    assert str(holder.pid) in (tmp_path / ".lock").read_text()  # stale text is left behind
    with run_lock.hold(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


def test_a_lock_is_free_again_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), run_lock.hold(tmp_path):
        _ = 1 / 0
    with run_lock.hold(tmp_path):
        pass


def test_a_refused_process_does_not_disturb_the_holder(tmp_path):
    with run_lock.hold(tmp_path):
        with pytest.raises(run_lock.RunLockedError), run_lock.hold(tmp_path):
            pass
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


def test_a_directory_that_cannot_be_made_or_written_is_refused_in_words(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/run: the run can't be kept there: Not a directory; name an"):
        run_lock.make_run_dir(tmp_path / "file" / "run")
    run_lock.make_run_dir(tmp_path / "new" / "run")
    assert (tmp_path / "new" / "run").is_dir()


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap to mount a directory read-only")
@pytest.mark.parametrize("name", ["", "new"])
def test_a_read_only_file_system_is_refused_in_words(tmp_path, name):
    code = "import sys; from pathlib import Path; from megatron_r1.runtime.run_lock import make_run_dir\n"
    code += "make_run_dir(Path(sys.argv[1]))"
    mount = ["bwrap", "--dev-bind", "/", "/", "--ro-bind", str(tmp_path), str(tmp_path)]
    done = subprocess.run(
        [*mount, sys.executable, "-c", code, str(tmp_path / name)], capture_output=True, text=True
    )
    assert "ConfigError" in done.stderr
    assert "read-only" in done.stderr.lower()
    assert "with --run-dir or `run_dir`" in done.stderr
