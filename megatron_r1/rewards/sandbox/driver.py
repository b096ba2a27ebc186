"""What runs inside the sandbox: compiles /program.py, then runs it or calls its function.

Imported by nobody: rewards/sandbox/run.py sends this file's text in. It stands alone and runs on the system's
Python, whatever its version. The arguments arrive in the first line of standard input:

    {"function": null}                               the rest of standard input is the program's own
    {"function": "solve", "calls": [[1, 2], ...]}    one line of JSON a call goes to standard output

Exit codes are for the audit only; a program that fakes one fools nobody but its own note.
"""

import json
import os
import sys

COMPILE_ERROR, NO_FUNCTION = 121, 122
PROGRAM = "/program.py"


def compiled(source):  # noqa: ANN001, ANN201
    try:
        return compile(source, "program.py", "exec")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        sys.stderr.write("%s: %s\n" % (type(error).__name__, error))  # noqa: UP031
        sys.stderr.flush()
        os._exit(COMPILE_ERROR)


def call_all(names, request, replies):  # noqa: ANN001, ANN201
    function = names.get(request["function"])
    if function is None and "Solution" in names:
        function = getattr(names["Solution"](), request["function"], None)
    if not callable(function):
        os._exit(NO_FUNCTION)
    for arguments in request["calls"]:
        replies.write(json.dumps(function(*arguments)) + "\n")
        replies.flush()


def main():  # noqa: ANN201
    # unbuffered: what follows the first line is the program's
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(0, 1) or b"\n"
    request = json.loads(line)
    with open(PROGRAM, "rb") as file:
        code = compiled(file.read())
    sys.argv = ["program.py"]
    names = {"__name__": "__main__"}
    if request["function"] is None:
        exec(code, names)
        return
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the program prints is no reply
    names["__name__"] = "program"
    exec(code, names)
    call_all(names, request, replies)


main()
