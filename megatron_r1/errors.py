"""Errors that a user can cause: what, where, the value and the remedy, in one message.

Our own mistakes are `assert`s. The command line prints an R1Error without a traceback and exits with
its `exit_code`, so that a job script can tell the cases apart.
"""


class R1Error(Exception):
    """Something that the user can mend; the message says how."""

    exit_code = 1


class ConfigError(R1Error):
    """The configuration is wrong; the message lists every finding, one a line."""

    exit_code = 2


class DataError(R1Error):
    """A data file, a tokenizer or a template can't serve; names the file and the line."""

    exit_code = 3


class CheckpointError(R1Error):
    """A checkpoint is missing, incomplete or damaged; names the file."""

    exit_code = 4


class GateError(R1Error):
    """A gate that guards the run failed (non-finite number, drift, a base too weak for RL)."""

    exit_code = 5


class HangError(R1Error):
    """A rank made no progress for the configured time; names where it hangs."""

    exit_code = 9


class Interrupted(R1Error):
    """SIGINT or SIGTERM arrived: the checkpoint is written and the run can be continued."""

    exit_code = 75  # EX_TEMPFAIL: run again to continue
