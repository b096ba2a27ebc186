"""The command line: `megatron-r1 run | check | plan | submit | status | ...`; `megatron-r1 --help` lists all.

Each command imports what it needs when it runs, so that `--help` answers at once (torch alone takes
seconds). An R1Error is printed without a traceback, and its exit_code becomes the command's.
"""

import json
import os
import sys
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable
from pathlib import Path

from megatron_r1 import VERBOSE, __version__
from megatron_r1.errors import R1Error

SCHEMA_PATH = Path("conf/schema.json")


def run(args: Namespace) -> int:
    from megatron_r1.launch.local import launch

    return launch(
        args.conf,
        overrides=args.overrides,
        from_stage=args.from_stage,
        run_dir=args.run_dir,
        profile=args.profile,
    )


def check(args: Namespace) -> int:
    from megatron_r1.check.findings import check as check_config

    print(check_config(args.conf, overrides=args.overrides, files=args.files, data=args.data))
    return 0


def plan(args: Namespace) -> int:
    from megatron_r1.check.planned import plan as plan_run

    print(plan_run(args.conf, overrides=args.overrides, hardware=args.hardware, suggest=args.suggest))
    return 0


def submit(args: Namespace) -> int:
    from megatron_r1.launch.slurm.submit import dry_run
    from megatron_r1.launch.slurm.submit import submit as submit_run

    how = {name: vars(args)[name] for name in ("overrides", "from_stage", "run_dir", "site")}
    for seed in args.seeds or [None]:
        if args.dry_run:
            for text in dry_run(args.conf, seed=seed, **how):
                print(text, flush=True)
        else:
            print(submit_run(args.conf, seed=seed, **how))
    return 0


def status(args: Namespace) -> int:
    from megatron_r1.launch.slurm.status import status as run_status

    print(run_status(args.run_dir))
    return 0


def logs(args: Namespace) -> int:
    from megatron_r1.launch.slurm.logs import follow_logs

    return follow_logs(args.run_dir, rank=args.rank, stage=args.stage, follow=args.follow, lines=args.lines)


def cancel(args: Namespace) -> int:
    from megatron_r1.launch.slurm.queue import cancel as cancel_run

    print(cancel_run(args.run_dir))
    return 0


def schema(args: Namespace) -> int:
    from megatron_r1.run.config import json_schema

    text = json.dumps(json_schema(), indent=2, ensure_ascii=False)
    if args.write:
        SCHEMA_PATH.parent.mkdir(exist_ok=True)
        SCHEMA_PATH.write_text(text + "\n", encoding="utf-8")
        text = f"wrote {SCHEMA_PATH}"
    print(text)
    return 0


def report(args: Namespace) -> int:
    from megatron_r1.registry import plug_in
    from megatron_r1.report.html import write_report

    for path in args.plugin:
        plug_in(path)
    print(f"wrote {write_report(args.run_dir, args.out)}")
    return 0


def doctor(args: Namespace) -> int:
    from megatron_r1.doctor import examine

    return examine(args.name)


def convert(args: Namespace) -> int:
    """Its sub-commands do the work."""
    raise AssertionError("argparse asks for a sub-command")


def convert_import(args: Namespace) -> int:
    from megatron_r1 import convert

    argv = ["import", str(args.source), str(args.target), *(["--dtype", args.dtype] if args.dtype else [])]
    job = convert.Job(
        lambda: convert.import_(args.source, args.target, dtype=args.dtype), argv, f"wrote {args.target}"
    )
    return convert.run_job(job, nproc=args.nproc)


def convert_export(args: Namespace) -> int:
    from megatron_r1 import convert

    argv = ["export", str(args.source), str(args.target), "--max-shard-size", args.max_shard_size]
    argv += [*(["--dtype", args.dtype] if args.dtype else []), *(["--fp8"] if args.fp8 else [])]
    job = convert.Job(
        lambda: convert.export(
            args.source, args.target, dtype=args.dtype, fp8=args.fp8, max_shard_size=args.max_shard_size
        ),
        argv,
        f"wrote {args.target}",
    )
    return convert.run_job(job, nproc=args.nproc)


def convert_verify(args: Namespace) -> int:
    from megatron_r1 import convert

    degrees = convert.parse_degrees(args.layout)
    argv = ["verify", str(args.source), str(args.target), "--layout", args.layout or ""]
    argv += ["--prompts", str(args.prompts)] if args.prompts else []
    argv += ["--tolerance", str(args.tolerance)] if args.tolerance else []
    job = convert.Job(
        lambda: convert.verify(
            args.source, args.target, prompts=args.prompts, tolerance=args.tolerance, degrees=degrees
        ),
        argv,
        "",
        degrees,
    )
    return convert.run_job(job, nproc=convert.ranks_of(degrees))


def convert_inspect(args: Namespace) -> int:
    from megatron_r1.convert import inspect

    print(inspect(args.source, as_yaml=args.yaml))
    return 0


def _add_conversions(command: ArgumentParser) -> None:
    kinds = command.add_subparsers(title="conversions", metavar="WHAT", required=True)

    def add(function: Callable[[Namespace], int], summary: str, *paths: tuple[str, str]) -> ArgumentParser:
        kind = kinds.add_parser(
            function.__name__.removeprefix("convert_"),
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
        )
        kind.set_defaults(function=function)
        _add_verbose(kind)
        for name, (metavar, text) in zip(("source", "target"), paths, strict=False):
            kind.add_argument(name, type=Path, metavar=metavar, help=text)
        return kind

    kind = add(convert_import, "Hugging Face's files -> a checkpoint that every layout reads",
               ("HF_DIR", "directory with config.json and *.safetensors"),
               ("CKPT", "the checkpoint to write"))  # fmt: skip
    kind.add_argument("--dtype", choices=("bf16", "fp32"), help="of the checkpoint (else the files' own)")
    _add_nproc(kind)
    kind = add(convert_export, "a checkpoint -> Hugging Face's files", ("CKPT", "a checkpoint of any stage"),
               ("HF_DIR", "the directory to write"))  # fmt: skip
    kind.add_argument("--fp8", action="store_true", help="linear weights as FP8 blocks of 128 x 128")
    kind.add_argument("--dtype", choices=("bf16", "fp32", "fp16"), help="of the files (else as they came)")
    kind.add_argument("--max-shard-size", default="5GB", metavar="SIZE", help="of a file; default 5GB")
    _add_nproc(kind)

    kind = add(convert_verify, "compare logits with transformers', and name the first layer that differs",
               ("HF_DIR", "the model's files"), ("CKPT", "a checkpoint, or a stage's directory"))  # fmt: skip
    kind.add_argument("--prompts", type=Path, metavar="FILE", help="a line each: text, or a list of ids")
    kind.add_argument("--tolerance", type=float, metavar="X", help="in standard deviations; default 0.001")
    kind.add_argument("--layout", metavar="a=b,c=d", help="e.g. tensor=2,pipeline=2; default one rank")
    kind = add(convert_inspect, "say what is at PATH, and what would not convert and why",
               ("PATH", "Hugging Face's files, a checkpoint, or a stage's directory"))  # fmt: skip
    kind.add_argument("--yaml", action="store_true", help="only the model section for a run")


def _add_verbose(command: ArgumentParser) -> None:
    command.add_argument("-v", "--verbose", action="store_true", default=SUPPRESS,
                         help="show what Megatron and torch say of themselves, too")  # fmt: skip


def _add_nproc(command: ArgumentParser) -> None:
    command.add_argument("--nproc", type=int, default=1, metavar="N", help="ranks that share it; default 1")


def _add_config(command: ArgumentParser) -> None:
    command.add_argument("conf", type=Path, metavar="CONF", help="the YAML file that describes the run")
    command.add_argument(
        "overrides",
        nargs="*",
        default=(),
        metavar="a.b=c",
        help="set one value, e.g. stages.zero.optim.lr=3e-6",
    )


def _add_run_dir(command: ArgumentParser) -> None:
    command.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="the run's directory")


def _seeds(text: str) -> list[int]:
    words = text.split(",")
    if not all(word.isdecimal() for word in words):
        raise ArgumentTypeError(f"'{text}': whole numbers with commas between, such as 7,8,9")
    return [int(word) for word in words]


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="megatron-r1",
        description="DeepSeek-R1 on Megatron-Core: one YAML file and one command, on a CPU or on a cluster.",
    )
    parser.add_argument("--version", action="version", version=f"megatron-r1 {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(function: Callable[[Namespace], int], summary: str, *, example: str) -> ArgumentParser:
        command = commands.add_parser(
            function.__name__,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"example:\n  megatron-r1 {function.__name__} {example}",
            formatter_class=RawDescriptionHelpFormatter,
        )
        command.set_defaults(function=function)
        _add_verbose(command)
        return command

    command = add(run, "run CONF's stages here; what is done is skipped, what was cut off goes on",
                  example="conf/tiny_zero.yaml stages.zero.optim.lr=3e-6 --from zero")  # fmt: skip
    _add_config(command)
    command.add_argument("--from", dest="from_stage", metavar="STAGE", help="do STAGE and all after it again")
    command.add_argument("--profile", action="store_true",
                         help="trace the second step of each stage that runs, with a table")  # fmt: skip
    command.add_argument("--run-dir", type=Path, metavar="DIR", help="where the run is kept (else runs/NAME)")

    command = add(check, "validate CONF and say what it would run, without running it",
                  example="conf/tiny_zero.yaml layout.tensor=2")  # fmt: skip
    _add_config(command)
    command.add_argument("--no-files", dest="files", action="store_false",
                         help="the weights and data that CONF names are on another machine")  # fmt: skip
    command.add_argument("--data", action="store_true",
                         help="read all lines of the data, not the first 100 of each file")  # fmt: skip

    command = add(plan, "say what CONF needs of its GPUs: memory by phase, links, FLOPs, hours",
                  example="conf/r1_zero_671b.yaml --hardware h200")  # fmt: skip
    _add_config(command)
    command.add_argument("--hardware", metavar="NAME", help="e.g. h100, or a YAML file (else plan.hardware)")
    command.add_argument("--suggest", type=int, metavar="GPUS", help="the five best layouts of so many GPUs")

    command = add(submit, "put CONF's stages into the queue of a SLURM cluster, one job a stage",
                  example="conf/my_run.yaml slurm.time=12:00:00 --dry-run")  # fmt: skip
    _add_config(command)
    command.add_argument("--from", dest="from_stage", metavar="STAGE", help="do STAGE and all after it again")
    command.add_argument("--run-dir", type=Path, metavar="DIR", help="where the run is kept (else runs/NAME)")
    command.add_argument("--seeds", type=_seeds, metavar="N,N,...",
                         help="a chain of jobs for each, in runs/NAME_seedN")  # fmt: skip
    command.add_argument("--site", type=Path, metavar="FILE", help="the site's profile, below CONF")
    command.add_argument("--dry-run", action="store_true", help="print the scripts and SLURM's opinion")

    command = add(status, "show a run's stages: jobs, states, steps, reward, time left, errors",
                  example="runs/my_run")  # fmt: skip
    _add_run_dir(command)

    command = add(logs, "show the log of a run's newest job and of a rank",
                  example="runs/my_run -f --rank 3")  # fmt: skip
    _add_run_dir(command)
    command.add_argument("-f", "--follow", action="store_true", help="go on as the logs grow")
    command.add_argument("--rank", type=int, metavar="N", help="only this rank's log")
    command.add_argument("--stage", metavar="STAGE", help="this stage's job, not the newest")
    command.add_argument("-n", "--lines", type=int, default=40, metavar="N", help="of each (default 40)")

    command = add(cancel, "take a run's jobs out of the queue; what runs writes a checkpoint",
                  example="runs/my_run")  # fmt: skip
    _add_run_dir(command)

    command = add(convert, "take weights from Hugging Face and give them back",
                  example="import path/to/Qwen2.5-7B runs/qwen_7b")  # fmt: skip
    _add_conversions(command)

    command = add(schema, "print the JSON schema of CONF, for editors", example="--write")
    command.add_argument("--write", action="store_true", help=f"write it to {SCHEMA_PATH} instead")

    command = add(report, "make one HTML page of a run: curves, samples, lineage", example="runs/tiny_zero")
    _add_run_dir(command)
    command.add_argument("--out", type=Path, metavar="FILE", help="where to write it (else DIR/report.html)")
    command.add_argument(
        "--plugin", type=Path, action="append", default=[], metavar="FILE",
        help="a Python file with FINDINGS, which is run; a run's own plug-ins are not",
    )  # fmt: skip

    command = add(doctor, "show what this machine has, what it is used for, and how to get what is missing",
                  example="transformer-engine")  # fmt: skip
    command.add_argument("name", nargs="?", metavar="NAME", help="only this, explained; e.g. apex")
    return parser


def parse(argv: list[str] | None) -> Namespace:
    """argparse stops collecting overrides at the first option; those that come after it are added here."""
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    late = [word for word in rest if "overrides" in args and "=" in word and not word.startswith("-")]
    unknown = [word for word in rest if word not in late]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if "overrides" in args:
        args.overrides = [*args.overrides, *late]
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if "verbose" in args:
        os.environ[VERBOSE] = "1"  # which the ranks inherit
    try:
        exit_code = args.function(args)
        sys.stdout.flush()
        return exit_code
    except R1Error as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python flushes into it at exit
        return 1
    except OSError as error:  # a full or read-only disk, no permission, a folder that went away meanwhile
        where = f"{error.filename}: " if error.filename is not None else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        return 1
