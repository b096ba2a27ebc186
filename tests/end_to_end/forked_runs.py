"""Runs of one rank, each in a fork of a process that has imported all: `megatron-r1 run` without its start.

    python -m tests.end_to_end.forked_runs FOLDER CONF...

Each is checked and resolved as the command does it, and left in FOLDER/NAME. A fork has plug-ins of its own.
"""

import os
import socket
import sys
from pathlib import Path


def main(folder: Path, configurations: list[Path]) -> int:
    import megatron_r1.backend.policy
    import megatron_r1.launch.local
    import megatron_r1.run.chain  # noqa: F401

    for conf in configurations:
        pid = os.fork()
        if not pid:
            os._exit(_run(folder / conf.stem, conf))
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
            return 1
    return 0


def _run(run_dir: Path, conf: Path) -> int:
    from megatron_r1.check.findings import findings
    from megatron_r1.config import refuse
    from megatron_r1.launch.local import write_resolved
    from megatron_r1.launch.rank import main as run_rank
    from megatron_r1.run.config import load_run

    loaded = load_run(conf)
    refuse(findings(loaded))
    run_dir.mkdir(parents=True)
    write_resolved(loaded.value, run_dir)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ.update(
        RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", LOCAL_WORLD_SIZE="1",
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    return run_rank(run_dir)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), [Path(path) for path in sys.argv[2:]]))
