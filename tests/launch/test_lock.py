import json
import os
import signal
import subprocess
import sys

import pytest

from megatron_r1.launch import lock


def held_by_a_process(run_dir):
    code = (
        "import sys; from pathlib import Path; from megatron_r1.launch.lock import hold\n"
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
        with pytest.raises(lock.RunLockedError) as refusal, lock.hold(tmp_path):
            pass
        holder.communicate()
    for part in (str(tmp_path), os.uname().nodename, f"pid {holder.pid}", since, "another name"):
        assert part in str(refusal.value)


def test_the_lock_of_a_killed_process_blocks_nobody(tmp_path):
    with held_by_a_process(tmp_path) as holder:
        holder.send_signal(signal.SIGKILL)
    assert str(holder.pid) in (tmp_path / ".lock").read_text()  # stale text is left behind
    with lock.hold(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


def test_a_lock_is_free_again_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), lock.hold(tmp_path):
        _ = 1 / 0
    with lock.hold(tmp_path):
        pass


def test_a_refused_process_does_not_disturb_the_holder(tmp_path):
    with lock.hold(tmp_path):
        with pytest.raises(lock.RunLockedError), lock.hold(tmp_path):
            pass
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
