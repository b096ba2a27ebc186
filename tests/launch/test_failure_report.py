import json
import time

import pytest

from megatron_r1.files.run_directory import rank_heartbeat
from megatron_r1.launch.failure_report import Death, culprit, describe

# as torch 2.13 and NCCL 2.27 print them
LOST_PEER = [
    "RuntimeError: [/pytorch/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:39103: "
    "Connection reset by peer. This is typically caused by a remote worker hanging or bugs in the app",
    "RuntimeError: [/pytorch/gloo/transport/tcp/pair.cc:547] Connection closed by peer [::1]",
    "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting "
    "1800000ms for recv operation to complete",
    "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.",
    "[rank1]:[E] [PG ID 0 Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7, ...)",
    "torch.distributed.DistNetworkError: failed to recv, got 0 bytes",
]
OWN_FAULT = [
    "ValueError: a shape that nobody expected",
    "ConnectionRefusedError: [Errno 111] Connection refused",  # a judge's server, not a rank
    "torch.distributed.DistNetworkError: The server socket has failed to listen: EADDRINUSE",
    "torch.OutOfMemoryError: CUDA out of memory.",
]


@pytest.mark.parametrize("last_line", LOST_PEER)
def test_a_lost_peer_is_collateral(last_line):
    assert Death(0, 1, f"Traceback\n{last_line}").collateral


@pytest.mark.parametrize("last_line", OWN_FAULT)
def test_other_errors_are_the_ranks_own(last_line):
    assert not Death(0, 1, f"Traceback\n{last_line}").collateral


def test_a_lost_peer_that_was_survived_excuses_nothing():
    log = "\n".join([LOST_PEER[0], *("step" for _ in range(20)), OWN_FAULT[0]])
    assert not Death(0, 1, log).collateral


def test_the_culprit_is_the_first_own_fault_in_the_order_of_the_deaths():
    well, lost, own, later = Death(4, 0, ""), Death(3, 1, LOST_PEER[0]), Death(2, 1, ""), Death(1, -9, "")
    assert culprit([well, lost, own, later]) == own
    assert culprit([well, lost]) == lost
    assert culprit([well]) is None


def test_an_interrupted_rank_explains_lost_peers_but_not_a_failure():
    interrupted, lost, own = Death(0, 75, ""), Death(1, 1, LOST_PEER[0]), Death(2, 1, "")
    assert culprit([lost, interrupted]) == interrupted
    assert culprit([interrupted, own]) == own


def test_a_rank_that_we_ended_is_never_the_culprit():
    assert culprit([Death(1, -15, "", ours=True), Death(0, 1, LOST_PEER[0])]) == Death(0, 1, LOST_PEER[0])


def test_exit_codes_are_those_of_a_shell():
    assert [Death(0, code, "").exit_code for code in (0, 75, -9, -15)] == [0, 75, 137, 143]


def test_a_clock_that_was_set_back_makes_no_time_to_come(tmp_path):
    rank_heartbeat(tmp_path, 0).write_text(
        json.dumps({"stage": "zero", "step": 7, "time": time.time() + 3600})
    )
    lost = Death(0, 1, LOST_PEER[0])
    text = describe(lost, deaths=[lost], log_dir=tmp_path, oom_kills=0)
    assert "rank 0: stage zero, step 7, 0 s ago" in text
