"""The driver inside the sandbox: compiles /program.py, then runs it or calls its function.

No module imports this file; rewards/coding/sandbox/run.py passes its text in. It is self-contained and runs
on the system's Python of any version. Standard input belongs to the program; the request is in /request.json:

    {"function": null}                               runs as python3 program.py does
    {"function": "solve", "calls": [[1, 2], ...]}    one line of JSON a call goes to standard output
    "alternatives": [source, ...]                    the first that compiles runs if /program.py doesn't

A function, or a method of Solution, gets the names that LeetCode's template provides (PROVIDED), unless it
defines them; a program gets only what it imports.

Exit codes only decide the score's note; a program that fakes one can't change its score.
"""

import _sitebuiltins
import _thread
import builtins
import importlib
import json
import os
import sys

COMPILE_ERROR, NO_FUNCTION = 121, 122
PROGRAM, REQUEST = "/program.py", "/request.json"
CPUS = 4  # os.cpu_count() for programs: a pool of a large machine's size would exceed the limit of processes
THREAD_STACK_BYTES = 8 << 20  # the usual size; the main thread's is larger (command.py), for deep recursion

PROVIDED = {
    "typing": "Any Callable Deque Dict Generator Generic Hashable Iterable Iterator List Literal Mapping "
    "NamedTuple NoReturn Optional Protocol Sequence Set Tuple Type TypeVar Union",
    "collections": "ChainMap Counter OrderedDict UserDict UserList defaultdict deque namedtuple",
    "heapq": "heapify heappop heappush heappushpop heapreplace merge nlargest nsmallest",
    "bisect": "bisect_left bisect_right insort insort_left insort_right",
    "math": "acos asin atan atan2 ceil comb cos dist e exp fabs factorial floor fmod fsum gcd hypot inf "
    "isclose isfinite isinf isnan isqrt lcm log log10 log2 nan perm pi prod radians sin sqrt tan "
    "trunc",
    "itertools": "accumulate chain combinations combinations_with_replacement compress count cycle dropwhile "
    "filterfalse groupby islice pairwise permutations product repeat starmap takewhile tee zip_longest",
    "functools": "cache cached_property cmp_to_key lru_cache partial reduce total_ordering wraps",
    "operator": "add and_ attrgetter itemgetter methodcaller mul or_ sub xor",
    "string": "ascii_letters ascii_lowercase ascii_uppercase digits punctuation",
    "random": "choice randint randrange shuffle",
    "copy": "deepcopy",
    "dataclasses": "dataclass field",
    "enum": "Enum IntEnum auto",
    "fractions": "Fraction",
    "decimal": "Decimal getcontext",
    "datetime": "timedelta",
    "abc": "ABC abstractmethod",
    "json": "",
    "re": "",
    "sys": "",
    "os": "",
    "time": "",
    "statistics": "",
}


class ListNode:
    def __init__(self, val=0, next=None):  # noqa: ANN001
        self.val, self.next = val, next


class TreeNode:
    def __init__(self, val=0, left=None, right=None):  # noqa: ANN001
        self.val, self.left, self.right = val, left, right


NODES = {"ListNode": ListNode, "TreeNode": TreeNode}


def compiled(sources):  # noqa: ANN001, ANN201
    """The code of the first source that compiles; if none does, print the first one's error and exit."""
    first = None
    for source in sources:
        try:
            return compile(source, "program.py", "exec", dont_inherit=True)
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            first = first or error
    sys.stderr.write("%s: %s\n" % (type(first).__name__, first))  # noqa: UP031
    sys.stderr.flush()
    os._exit(COMPILE_ERROR)


def provided(code, function):  # noqa: ANN001, ANN201
    """The names of PROVIDED that the program uses, as imports take time; never its own function."""
    named, inside = set(), [code]
    while inside:
        part = inside.pop()
        named.update(part.co_names)
        inside.extend(c for c in part.co_consts if isinstance(c, type(code)))
    found = {name: value for name, value in NODES.items() if name in named}
    for module, names in PROVIDED.items():
        wanted = [name for name in names.split() if name in named]
        if module in named or wanted:
            loaded = importlib.import_module(module)
            found.update((name, getattr(loaded, name)) for name in wanted if hasattr(loaded, name))
            if module in named:
                found[module] = loaded
    found.pop(function, None)
    return found


def method(names, function):  # noqa: ANN001, ANN201
    """The callable of the request; a method of Solution gets a new instance for every call."""
    solution = names.get("Solution")
    if isinstance(solution, type) and callable(getattr(solution, function, None)):
        return lambda *arguments: getattr(solution(), function)(*arguments)
    return names.get(function)


def call_all(names, request, replies):  # noqa: ANN001, ANN201
    function = method(names, request["function"])
    if not callable(function):
        os._exit(NO_FUNCTION)
    for arguments in request["calls"]:
        replies.write(json.dumps(function(*arguments)) + "\n")
        replies.flush()


def module(name):  # noqa: ANN001, ANN201
    """A real module in sys.modules, where pickle, dataclasses and multiprocessing look it up."""
    made = type(sys)(name)
    made.__file__ = PROGRAM
    sys.modules[name] = made
    return made.__dict__


def prepare():  # noqa: ANN201
    """Add what `python3 -I -S` lacks, and fix what would depend on the machine."""
    builtins.exit = _sitebuiltins.Quitter("exit", "Ctrl-D")
    builtins.quit = _sitebuiltins.Quitter("quit", "Ctrl-D")
    builtins.help = _sitebuiltins._Helper()
    for name in ("cpu_count", "process_cpu_count"):
        setattr(os, name, lambda: CPUS)
    os.sched_getaffinity = lambda pid: set(range(CPUS))
    _thread.stack_size(THREAD_STACK_BYTES)
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(0)
    sys.argv = ["program.py"]
    sys.modules["driver"] = sys.modules["__main__"]  # kept alive when the program takes its place


def read(path):  # noqa: ANN001, ANN201
    with open(path, "rb") as file:
        return file.read().decode("utf-8", "surrogatepass")


def main():  # noqa: ANN201
    prepare()
    request = json.loads(read(REQUEST))
    # text rather than bytes: a line such as "# coding: latin-1" must not change how it is decoded
    code = compiled([read(PROGRAM), *request.get("alternatives", [])])
    if request["function"] is None:
        exec(code, module("__main__"))
        return
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the program's prints must not be taken for replies
    names = module("program")
    names.update(provided(code, request["function"]))
    try:
        exec(code, names)
    except SystemExit as leaving:
        if leaving.code:
            raise
    call_all(names, request, replies)


main()
