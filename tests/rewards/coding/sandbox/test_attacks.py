"""What programs try, and that it fails: each attack runs for real, in a real sandbox."""

import os
import platform
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from megatron_r1.rewards.coding.sandbox import cgroup, seccomp
from megatron_r1.rewards.coding.sandbox.limits import MIB
from megatron_r1.rewards.coding.sandbox.run import Fate, Ran
from tests.rewards.coding.sandbox.conftest import SMALL, needs_sandbox

pytestmark = needs_sandbox

Run = Callable[..., Ran]


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """No attack leaves a process of its own, nor a file where the tests run."""
    before = {p.pid for p in psutil.process_iter()}
    yield
    deadline = time.monotonic() + 5
    while True:
        left = [p for p in psutil.process_iter(["cmdline"]) if p.pid not in before and _sandboxed(p)]
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.02)
    assert not left


def _sandboxed(process: psutil.Process) -> bool:
    return "/driver.py" in (process.info["cmdline"] or [])


@pytest.fixture(params=["as lent", "no control group"])
def bounds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the control group that this machine lends, if any, and without."""
    if request.param == "no control group":
        monkeypatch.setattr(cgroup, "lent", lambda: None)
    return request.param


# ---- processes


@pytest.mark.slow
def test_a_fork_bomb_meets_the_limit_of_processes(run: Run) -> None:
    ran = run("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", cpu_s=2.0)
    assert ran.fate in (Fate.TIME_OUT, Fate.PROCESSES)
    assert ran.usage.processes <= SMALL.processes + 2


def test_threads_count_as_processes(run: Run) -> None:
    ran = run(
        "import threading, time\nstarted = 0\ntry:\n"
        "    while True:\n        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "        started += 1\n"
        "except RuntimeError: print(started, flush=True); import os; os._exit(0)"
    )
    assert ran.fate is Fate.DONE
    assert 0 < int(ran.stdout) < SMALL.processes


def test_a_daemon_left_behind_dies_with_the_program(run: Run) -> None:
    source = (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        time.sleep(600)\n"
        "    os._exit(0)\nprint('gone')"
    )
    began = time.monotonic()
    ran = run(source)
    assert (ran.fate, ran.stdout) == (Fate.DONE, b"gone\n")
    assert time.monotonic() - began < 30


def test_zombies_are_harmless(run: Run) -> None:
    ran = run("import os\nfor _ in range(10):\n    if os.fork() == 0: os._exit(0)\nprint('done')")
    assert (ran.fate, ran.stdout) == (Fate.DONE, b"done\n")


def test_signals_reach_nobody_outside(run: Run) -> None:
    ran = run(
        f"import os, signal\nfor pid in [os.getppid(), 1, {os.getpid()}]:\n"
        "    try: os.kill(pid, signal.SIGKILL)\n    except OSError: pass\nprint('tried')"
    )
    assert ran.fate is Fate.DONE  # not even its own first process


def test_a_signal_to_all_ends_the_program_alone(run: Run) -> None:
    assert run("import os, signal\nos.kill(-1, signal.SIGKILL)").fate is not Fate.NOT_RUN


# ---- time


def test_an_endless_loop_is_a_time_out(run: Run) -> None:
    ran = run("while True: pass", cpu_s=1.0)
    assert ran.fate is Fate.TIME_OUT


def test_sleep_is_a_time_out_by_the_clock(run: Run) -> None:
    began = time.monotonic()
    assert run("import time; time.sleep(600)", wall_s=1.0).fate is Fate.TIME_OUT
    assert time.monotonic() - began < 20


def test_cpu_time_is_counted_over_all_processes(run: Run) -> None:
    ran = run("import os\nfor _ in range(3): os.fork()\nwhile True: pass", cpu_s=2.0)
    assert ran.fate is Fate.TIME_OUT
    assert ran.usage.cpu_s < 2 * 2.0  # 8 processes with 2 s each would be 16


def test_children_that_nobody_waits_for_use_cpu_time_too(run: Run, bounds: str) -> None:
    source = (
        "import os, signal, time\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nwhile True:\n"
        "    if os.fork() == 0:\n        while time.process_time() < 0.2: pass\n        os._exit(0)\n"
        "    time.sleep(0.1)"
    )
    began = time.monotonic()
    ran = run(source, cpu_s=1.0, processes=8)
    assert ran.fate in (Fate.TIME_OUT, Fate.PROCESSES, Fate.RUNTIME_ERROR)
    assert ran.fate is Fate.TIME_OUT or time.monotonic() - began < 30
    assert ran.usage.cpu_s < 3.0


def test_ignored_signals_save_nobody(run: Run) -> None:
    source = (
        "import signal\nfor s in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:\n"
        "    signal.signal(s, signal.SIG_IGN)\nwhile True: pass"
    )
    assert run(source, cpu_s=1.0).fate is Fate.TIME_OUT


# ---- memory


def test_a_large_allocation_is_refused(run: Run) -> None:
    assert run("x = bytearray(10 * 2**30)").fate is Fate.MEMORY


def test_memory_is_counted_over_all_processes(run: Run) -> None:
    source = (
        "import os, time\nfor _ in range(10):\n    if os.fork() == 0:\n"
        "        x = bytearray(os.urandom(1 << 20) * 60)\n        time.sleep(60)\ntime.sleep(60)"
    )
    ran = run(source)  # 10 x 60 MiB, none over its own 128
    assert ran.fate is Fate.MEMORY
    assert ran.usage.memory_bytes > SMALL.memory_bytes


def test_pages_that_a_fork_shares_count_once(run: Run) -> None:
    source = (
        "import os, time\nx = bytearray(os.urandom(1 << 20) * 40)\n"
        "for _ in range(6):\n    if os.fork() == 0: time.sleep(0.5); os._exit(0)\n"
        "time.sleep(0.5)\nprint('done')"
    )
    assert run(source).fate is Fate.DONE


HIDDEN = {  # memory that belongs to no process: seccomp refuses it
    "anonymous files": "import os\nos.memfd_create('x')",
    "System V segments": (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "if libc.shmget(0, 1 << 20, 0o1600) < 0: raise OSError(ctypes.get_errno(), 'refused')"
    ),
    "message queues": (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "if libc.msgget(0, 0o1600) < 0: raise OSError(ctypes.get_errno(), 'refused')"
    ),
}


@pytest.mark.parametrize("kind", HIDDEN)
def test_memory_that_no_process_owns_is_refused(run: Run, kind: str) -> None:
    ran = run(f"try:\n    exec({HIDDEN[kind]!r})\nexcept OSError as error: print(error.errno)")
    assert (ran.fate, ran.stdout) == (Fate.DONE, b"1\n")  # EPERM


def test_the_buffers_of_sockets_count_as_memory(run: Run, bounds: str) -> None:
    source = (
        "import os, socket, time\nfor _ in range(13):\n    if os.fork() == 0: break\nopen_ = []\n"
        "while len(open_) < 28:\n    open_ += socket.socketpair()\n    for s in open_[-2:]:\n"
        "        s.setblocking(False)\n        try:\n            while True: s.send(bytes(1 << 15))\n"
        "        except BlockingIOError: pass\ntime.sleep(30)"
    )
    ran = run(source)  # 14 processes x 28 sockets x 208 KiB = 80 MiB, which no process shows as its own
    assert ran.fate is Fate.MEMORY


def test_larger_buffers_are_refused(run: Run) -> None:
    source = (
        "import fcntl, os, socket\na, b = socket.socketpair()\nfor number in (7, 8, 32, 33):\n"
        "    try: a.setsockopt(socket.SOL_SOCKET, number, 1 << 30)\n"
        "    except OSError as error: print(error.errno)\n"
        "try: fcntl.fcntl(os.pipe()[0], 1031, 1 << 20)\nexcept OSError as error: print(error.errno)"
    )
    assert run(source).stdout == b"1\n" * 5


def test_every_listed_system_call_is_refused(run: Run) -> None:
    """Asked for with zeros, which do nothing in any of them."""
    numbers = seccomp.MACHINES[platform.machine()][1]
    ran = run(
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        f"for name, number in {numbers!r}.items():\n"
        "    if libc.syscall(number, 0, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() != 1: print(name)\n"
        "print('tried')"
    )
    assert (ran.fate, ran.stdout) == (Fate.DONE, b"tried\n")


# ---- disk and output


def test_the_disk_is_full_at_its_limit(run: Run) -> None:
    source = (
        "import errno\nwritten = 0\ntry:\n    for i in range(1000):\n"
        "        with open(f'/tmp/{i}', 'wb') as f:\n"
        "            written += f.write(bytes(1 << 20))\n"
        "except OSError as error: print(written >> 20, errno.errorcode[error.errno])"
    )
    ran = run(source)
    assert ran.stdout.split()[1] == b"ENOSPC"
    assert int(ran.stdout.split()[0]) <= SMALL.disk_bytes // MIB


def test_one_file_is_cut_at_its_limit(run: Run) -> None:
    ran = run(
        "open('/tmp/a', 'wb', buffering=0).write(bytes(6 << 20)); import os; print(os.stat('/tmp/a').st_size)"
    )
    assert ran.fate in (Fate.DONE, Fate.RUNTIME_ERROR)
    assert ran.fate is Fate.RUNTIME_ERROR or int(ran.stdout) == SMALL.file_bytes


@pytest.mark.parametrize("folders", [["/tmp"], ["/dev/shm"], ["/tmp", "/dev/shm"]])
def test_files_are_limited_in_number(run: Run, folders: list[str]) -> None:
    source = (
        f"made = 0\ntry:\n    while True:\n        for folder in {folders!r}:\n"
        "            open(f'{folder}/{made}', 'w').close(); made += 1\nexcept OSError: print(made)"
    )
    assert int(run(source).stdout) < SMALL.files


def test_shared_memory_is_part_of_the_disk(run: Run) -> None:
    source = (
        "written = 0\ntry:\n    for i in range(1000):\n"
        "        with open(f'{(\"/tmp\", \"/dev/shm\")[i % 2]}/{i}', 'wb') as f:\n"
        "            written += f.write(bytes(1 << 20))\nexcept OSError: print(written >> 20)"
    )
    assert int(run(source).stdout) <= SMALL.disk_bytes // MIB


def test_directories_are_limited_in_number(run: Run) -> None:
    source = (
        "import os\nmade = 0\ntry:\n    while True:\n        os.mkdir('d'); os.chdir('d'); made += 1\n"
        "except OSError: print(made)"
    )
    assert int(run(source).stdout) < SMALL.files


def test_open_files_are_limited(run: Run) -> None:
    source = (
        "kept = []\ntry:\n    while True: kept.append(open('/dev/null'))\nexcept OSError: print(len(kept))"
    )
    assert int(run(source).stdout) < SMALL.open_files


@pytest.mark.parametrize("stream", [1, 2])
def test_a_flood_of_output_is_stopped(run: Run, stream: int) -> None:
    ran = run(f"import os\nwhile True: os.write({stream}, b'x' * 65536)")
    assert ran.fate is Fate.OUTPUT
    assert len(ran.stdout) <= SMALL.output_bytes + 65536


def test_what_the_program_is_given_cannot_be_changed(run: Run) -> None:
    source = (
        "import os\nfor target in (0, '/program.py', '/driver.py'):\n"
        "    try:\n        fd = target if target == 0 else os.open(target, os.O_RDWR)\n"
        "        os.lseek(fd, 0, 0); os.write(fd, b'x'); print('changed')\n"
        "    except OSError: print('refused')"
    )
    assert run(source, "input").stdout == b"refused\n" * 3


# ---- the machine's files, environment and network


@pytest.mark.parametrize("path", ["/etc/shadow", "/etc/passwd", "/root", "/home", "/var", "/work"])
def test_the_machine_cannot_be_read(run: Run, path: str) -> None:
    source = (
        f"import os\ntry: print(os.listdir({path!r}) if os.path.isdir({path!r}) else open({path!r}).read())\n"
        "except OSError as error: print(type(error).__name__)"
    )
    assert run(source).stdout in (b"FileNotFoundError\n", b"PermissionError\n")


def test_our_environment_cannot_be_read(run: Run) -> None:
    ran = run("print(open('/proc/1/environ').read().replace(chr(0), ' '))")
    assert ran.stdout.split() == [b"PATH=/usr/sbin:/usr/bin:/sbin:/bin", b"PWD=/"]


def test_a_secret_of_ours_is_out_of_reach(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hidden words")
    monkeypatch.setenv("R1_SECRET", "hidden words")
    source = (
        f"import os\nprint(dict(os.environ))\nos.symlink({str(secret)!r}, '/tmp/link')\n"
        "try: print(open('/tmp/link').read())\nexcept OSError as error: print(type(error).__name__)\n"
        f"print(os.path.exists('/proc/{os.getpid()}'))"
    )
    ran = run(source)
    assert b"hidden words" not in ran.stdout + ran.stderr.encode()
    assert ran.stdout.endswith(b"FileNotFoundError\nFalse\n")


def test_symlinks_write_nowhere(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "target"
    source = (
        f"import os\nos.symlink({str(target)!r}, '/tmp/link')\nos.symlink('/usr/evil', '/tmp/usr')\n"
        "for name in ('link', 'usr'):\n    try: open('/tmp/' + name, 'w').write('x'); print('written')\n"
        "    except OSError: print('refused')"
    )
    assert run(source).stdout == b"refused\n" * 2
    assert not target.exists()


@pytest.mark.parametrize("folder", ["/", "/usr", "/dev", "/proc", "/usr/lib"])
def test_only_tmp_can_be_written(run: Run, folder: str) -> None:
    assert run(f"open({folder!r} + '/evil', 'w')").fate is Fate.RUNTIME_ERROR


def test_runs_do_not_see_each_other(run: Run) -> None:
    assert run("open('/tmp/a', 'w').write('x')").fate is Fate.DONE
    assert run("import os; print(os.listdir('/tmp'))").stdout == b"[]\n"


def test_the_network_is_away(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        source = (
            "import socket\nfor host in ('127.0.0.1', '192.0.2.1'):\n"
            f"    try: socket.create_connection((host, {port}), timeout=1); print('connected')\n"
            "    except OSError: print('refused')"
        )
        assert run(source).stdout == b"refused\n" * 2


def test_no_socket_but_of_its_own_processes(run: Run) -> None:
    """AF_VSOCK reaches the host of a virtual machine, AF_NETLINK and AF_ALG the kernel."""
    source = (
        "import socket\nfor family in range(64):\n    for kind in (1, 2, 3, 5):\n"
        "        try: socket.socket(family, kind); print(family, kind)\n"
        "        except OSError as error: assert error.errno == 1, (family, error)"
    )
    ran = run(source)
    assert (ran.fate, ran.stdout) == (Fate.DONE, b"1 1\n")  # AF_UNIX, SOCK_STREAM


def test_our_unix_sockets_are_away(run: Run) -> None:
    name = f"\0r1-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        source = (
            "import socket\ns = socket.socket(socket.AF_UNIX)\n"
            f"try: s.connect({name!r}); print('connected')\nexcept OSError: print('refused')"
        )
        assert run(source).stdout == b"refused\n"


@pytest.mark.parametrize(
    "what", ["0x10000000", "0x20000", "0x40000000"]
)  # user, mount and network namespaces
def test_no_namespace_of_its_own(run: Run, what: str) -> None:
    source = f"import ctypes\nprint(ctypes.CDLL(None).unshare({what}))"
    assert run(source).stdout == b"-1\n"


def test_inherited_descriptors_are_the_standard_three(run: Run) -> None:
    ran = run("import os; print(sorted(map(int, os.listdir('/proc/self/fd')))[:4])")
    assert ran.stdout == b"[0, 1, 2, 3]\n"  # 3: the listing's own


def test_the_parent_of_a_sandbox_may_be_a_thread(run: Run) -> None:
    found: list[Ran] = []
    thread = threading.Thread(target=lambda: found.append(run("print('hello')")))
    thread.start()
    thread.join()
    assert found[0].stdout == b"hello\n"
