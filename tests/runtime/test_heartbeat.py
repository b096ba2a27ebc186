import time

from megatron_r1.runtime import env_vars, heartbeat


def test_a_rank_leaves_its_stage_and_step(tmp_path, monkeypatch):
    for name, value in heartbeat.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RANK", "3")
    assert heartbeat.read(tmp_path, 3) is None
    heartbeat.beat("zero", 11)
    heartbeat.beat("zero", 12)
    last = heartbeat.read(tmp_path, 3)
    assert (last.stage, last.step) == ("zero", 12)
    assert abs(last.time - time.time()) < 5
    assert [path.name for path in tmp_path.iterdir()] == ["rank3.json"]


def test_a_process_that_is_no_rank_of_ours_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(env_vars.HEARTBEATS, raising=False)
    monkeypatch.setenv("RANK", "0")
    heartbeat.beat("zero", 1)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_does_not_end_the_run(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv(env_vars.HEARTBEATS, str(tmp_path / "missing"))
    monkeypatch.setenv("RANK", "0")
    heartbeat.beat("zero", 1)
    assert "could not be written" in caplog.text
