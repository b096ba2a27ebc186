from megatron_r1.runtime import cores


def test_ranks_never_have_more_threads_than_cores():
    for num_cores in range(1, 65):
        for ranks in range(1, num_cores + 1):
            assert ranks * cores.threads_per_rank(ranks, cores=num_cores) <= num_cores


def test_a_big_machine_is_shared_and_a_small_one_uses_one_thread():
    assert cores.threads_per_rank(8, cores=64) == 8
    assert cores.threads_per_rank(3, cores=16) == 5
    assert cores.threads_per_rank(1, cores=4) == 1
    assert cores.threads_per_rank(16, cores=8) == 1


def test_the_users_own_number_of_threads_wins():
    assert cores.thread_variables({"OMP_NUM_THREADS": "3"}, ranks=1, cores=64) == {}
    assert cores.thread_variables({}, ranks=8, cores=64) == {"OMP_NUM_THREADS": "8"}


def test_more_ranks_than_cores_are_warned_of_with_the_cost():
    assert cores.crowding_warning(2, cores=2) is None
    assert "4 ranks share 2 cores" in cores.crowding_warning(4, cores=2)
    assert "2.0 times" in cores.crowding_warning(4, cores=2)


def test_a_containers_quota_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(cores, "_CPU_QUOTA", tmp_path / "cpu.max")
    assert cores.usable_cores() == 8
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    assert cores.usable_cores() == 2
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cores.usable_cores() == 8
