"""Right programs as models write them: each must pass, whatever it does besides."""

FENCE = "`" * 3
ADD = {"tests": [{"stdin": "3 4\n", "stdout": "7\n"}]}
LINES = {"tests": [{"stdin": "1\n2\n3\n", "stdout": "6\n"}]}
READ = "a, b = map(int, input().split())\n"

PROGRAMS = {
    "exit()": READ + "print(a + b)\nexit()",
    "quit(0)": READ + "print(a + b)\nquit(0)",
    "sys.exit()": "import sys\n" + READ + "print(a + b)\nsys.exit()",
    "raise SystemExit": READ + "print(a + b)\nraise SystemExit",
    "os._exit after a flush": "import os\n" + READ + "print(a + b, flush=True)\nos._exit(0)",
    "atexit": "import atexit\n" + READ + "atexit.register(lambda: print(a + b))",
    "/dev/stdin": "a, b = map(int, open('/dev/stdin').read().split())\nprint(a + b)",
    "open(0)": "a, b = map(int, open(0).read().split())\nprint(a + b)",
    "sys.stdin.buffer": "import sys\nprint(sum(map(int, sys.stdin.buffer.read().split())))",
    "os.read": "import os\nprint(sum(map(int, os.read(0, 100).split())))",
    "fileinput": "import fileinput\nfor line in fileinput.input(): print(sum(map(int, line.split())))",
    "input = sys.stdin.readline": "import sys\ninput = sys.stdin.readline\n" + READ + "print(a + b)",
    "input to the end": "s = 0\ntry:\n    while True: s += sum(map(int, input().split()))\n"
    "except EOFError: print(s)",
    "main guard": "def main():\n    print(sum(map(int, input().split())))\n"
    "if __name__ == '__main__':\n    main()",
    "async main": "import asyncio\nasync def main():\n    print(sum(map(int, input().split())))\n"
    "asyncio.run(main())",
    "walrus, match, generators": "match (v := list(map(int, input().split()))):\n"
    "    case [a, b]: print(sum(x for x in v))",
    "future annotations and a dataclass": "from __future__ import annotations\n"
    "from dataclasses import dataclass\n@dataclass\nclass P:\n    a: int\n    b: int\n"
    "p = P(*map(int, input().split()))\nprint(p.a + p.b)",
    "its own exec": "exec(compile('s = sum(map(int, input().split()))', 'x', 'exec'))\nprint(s)",
    "a shebang and a coding line": "#!/usr/bin/env python3\n# -*- coding: latin-1 -*-\n"
    "s = 'é中'\nassert len(s) == 2\nprint(sum(map(int, input().split())))",
    "tabs": "if True:\n\tprint(sum(map(int, input().split())))",
    "print with end": "import sys\nfor c in str(sum(map(int, input().split()))):\n"
    "    print(c, end='', flush=True)",
    "trailing white space": "print(sum(map(int, input().split())), ' ')\nprint()",
    "signals": "import signal\nsignal.signal(signal.SIGALRM, lambda *_: None)\nsignal.alarm(5)\n"
    "print(sum(map(int, input().split())))",
    "a pool of processes": "from multiprocessing import Pool\ndef f(x): return x\n"
    "if __name__ == '__main__':\n    with Pool() as pool: print(sum(pool.map(f, map(int, input().split()))))",
    "as many processes as cores": "import os\nfrom multiprocessing import Pool, cpu_count\n"
    "def f(x): return x\nif __name__ == '__main__':\n"
    "    with Pool(max(cpu_count(), len(os.sched_getaffinity(0)))) as pool:\n"
    "        print(sum(pool.map(f, map(int, input().split()))))",
    "an executor of processes": "from concurrent.futures import ProcessPoolExecutor\ndef f(x): return x\n"
    "with ProcessPoolExecutor(2) as pool: print(sum(pool.map(f, map(int, input().split()))))",
    "a spawned process": "import multiprocessing as m\ndef f(q, a, b): q.put(a + b)\n"
    "if __name__ == '__main__':\n    c = m.get_context('spawn')\n    q = c.SimpleQueue()\n"
    "    p = c.Process(target=f, args=(q, *map(int, input().split())))\n    p.start()\n    print(q.get())\n"
    "    p.join()",
    "locks and shared values": "import multiprocessing as m\ndef f(v, x):\n"
    "    with v.get_lock(): v.value += x\n"
    "v = m.Value('i', 0)\nps = [m.Process(target=f, args=(v, int(x))) for x in input().split()]\n"
    "[p.start() for p in ps]; [p.join() for p in ps]\nprint(v.value)",
    "shared memory": "from multiprocessing.shared_memory import SharedMemory\nm = SharedMemory(create=True, "
    "size=1 << 20)\nm.buf[:2] = bytes(map(int, input().split()))\nprint(sum(m.buf[:2]))\n"
    "m.close(); m.unlink()",
    "a manager": "from multiprocessing import Manager\nif __name__ == '__main__':\n    with Manager() as m:\n"
    "        d = m.dict(zip('ab', map(int, input().split())))\n        print(d['a'] + d['b'])",
    "fourteen threads that work": "import threading\n" + READ + "out = [0] * 14\n"
    "def work(i): out[i] = len([list(range(100)) for _ in range(2000)])\n"
    "ts = [threading.Thread(target=work, args=(i,)) for i in range(14)]\n[t.start() for t in ts]\n"
    "[t.join() for t in ts]\nassert sum(out) == 28000\nprint(a + b)",
    "an executor of threads": "from concurrent.futures import ThreadPoolExecutor\nimport time\n"
    "with ThreadPoolExecutor() as pool:\n    [pool.submit(time.sleep, .01) for _ in range(40)]\n"
    "    print(sum(pool.map(int, input().split())))",
    "a large stack": "import sys, threading\nsys.setrecursionlimit(1 << 20)\n"
    "threading.stack_size(512 << 20)\n"
    "def f(n): return 0 if n == 0 else 1 + f(n - 1)\ndef main():\n"
    "    print(sum(map(int, input().split())), end='') if f(100000) else 0\n"
    "t = threading.Thread(target=main)\nt.start(); t.join()",
    "a deep recursion": "import sys\nfrom functools import lru_cache\nsys.setrecursionlimit(1 << 20)\n"
    "@lru_cache(None)\ndef f(n): return 0 if n == 0 else 1 + f(n - 1)\nassert f(100000) == 100000\n"
    "print(sum(map(int, input().split())))",
    "a long number": "assert len(str(2 ** 20000)) == 6021\nprint(sum(map(int, input().split())))",
    "a shell": "import os, subprocess\n" + READ + "os.system(f'expr {a} + {b}')",
    "sqlite": "import sqlite3\nc = sqlite3.connect('/tmp/x.db')\nprint(c.execute(f\"select "
    "{'+'.join(input().split())}\").fetchone()[0])",
    "a temporary file": "import tempfile\nwith tempfile.TemporaryFile('w+') as f:\n    f.write(input())\n"
    "    f.seek(0)\n    print(sum(map(int, f.read().split())))",
    "its own text": "assert 'unlikely words' in open(__file__).read()\nprint(sum(map(int, input().split())))",
    "a fence in a string": f"s = '''\n{FENCE}\n'''\nprint(sum(map(int, input().split())))",
    "tags in a string": "s = '</think></answer><answer>'\nprint(sum(map(int, input().split())))",
    "pickled objects": "import pickle\nclass P:\n    pass\np = P()\np.v = input()\n"
    "print(sum(map(int, pickle.loads(pickle.dumps(p)).v.split())))",
    "types": "import typing\nclass P(typing.NamedTuple):\n    a: 'int'\n    b: 'int'\n"
    "assert typing.get_type_hints(P)['a'] is int\nprint(sum(map(int, input().split())))",
}

FUNCTIONS = {  # name of the entry point, source, arguments, what is expected
    "annotations without imports": (
        "total", "class Solution:\n    def total(self, v: List[int], k: Optional[int] = None) -> int:\n"
        "        return sum(v)", [[1, 2]], 3),
    "names of LeetCode": (
        "f", "class Solution:\n    def f(self, v: List[int]) -> List[float]:\n        q = deque(v)\n"
        "        heapify(v)\n        heapq.heappush(v, 0)\n        d = defaultdict(int, Counter(v))\n"
        "        return [heappop(v), math.inf > gcd(4, 6), bisect_left([1, 2], 2), bisect.bisect([1], 1),\n"
        "                *accumulate([1, 2]), reduce(lambda a, b: a + b, [1, 2]), len(q), len(d)]",
        [[3, 1]], [0, True, 1, 1, 1, 3, 3, 2, 3]),
    "nodes": (
        "f", "class Solution:\n    def f(self, v):\n        head: Optional[ListNode] = None\n"
        "        for x in v: head = ListNode(x, head)\n        return [head.val, TreeNode(1).left]",
        [[1, 2]], [2, None]),
    "its own names come first": (
        "f", "class Counter:\n    def __init__(self, v): self.v = v\ndef f(v): return Counter(v).v", [5], 5),
    "a method named as a function of math": (
        "gcd", "class Solution:\n    def gcd(self, a, b):\n        return math.gcd(a, b)", [4, 6], 2),
    "leaves after an example": ("add", "def add(a, b): return a + b\nprint(add(1, 2))\nexit()", [3, 4], 7),
    "sys.exit at the end": ("add", "import sys\ndef add(a, b): return a + b\nsys.exit(0)", [3, 4], 7),
    "a main guard": (
        "add", "def add(a, b): return a + b\nif __name__ == '__main__':\n"
        "    print(add(*map(int, input().split())))",
        [3, 4], 7),
    "a dataclass with future annotations": (
        "f", "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass P:\n"
        "    x: int\ndef f(x: List[int]) -> int: return P(x).x", [5], 5),
    "processes": (
        "f", "from concurrent.futures import ProcessPoolExecutor\ndef g(x): return x * x\ndef f(v):\n"
        "    with ProcessPoolExecutor(2) as pool: return list(pool.map(g, v))", [[1, 2]], [1, 4]),
    "prints": ("f", "def f(x):\n    print('noise')\n    return x", [5], 5),
    "a tuple": ("f", "def f(x): return x, x", [5], [5, 5]),
    "infinity": ("f", "def f(x): return float('inf')", [5], float("inf")),
}  # fmt: skip

# how an answer surrounds a program
ANSWERS = {
    "text before": "Input:\n```text\n3 4\n```\n```python\n{}\n```",
    "C++ before": "In C++:\n```cpp\nint main() {{}}\n```\nIn Python:\n```python\n{}\n```",
    "output after": "```python\n{}\n```\nprints\n```\n7\n```",
    "output after, no marks": "```\n{}\n```\nprints\n```\n3 4 gives 7\n```",
    "Python": "```Python\n{}\n```",
    "attributes": '```python title="x.py" linenums="1"\n{}\n```',
    "pandoc": "```{{.python}}\n{}\n```",
    "four backticks": "````python\n{}\n````",
    "tildes": "~~~python\n{}\n~~~",
    "in the answer": "<answer>\n```python\n{}\n```\n</answer>",
    "bare in the answer": "<answer>\n{}\n</answer>",
}
