"""Sandbox for model-written programs: bubblewrap, rlimits, a seccomp filter, a cgroup, and a watch.

    limits     the limits of a program
    seccomp    the refused system calls
    cgroup     a control group around the sandbox, where the machine allows one
    command    the command line around the interpreter
    proof      the check that the sandbox holds on this machine
    watch      memory, processes and CPU time of a whole sandbox while it runs
    run        runs one program and reports how it ended
    driver     runs inside the sandbox: compiles the program, then runs it or calls its function

The expected output never enters the sandbox. Outputs are compared outside, so nothing that the program reads,
patches or kills inside can make a wrong answer right.
"""
