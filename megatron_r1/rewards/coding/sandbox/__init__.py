"""Runs programs that a model wrote, cut off from everything: bubblewrap, rlimits, seccomp and a watch.

    limits     what a program may use
    seccomp    system calls that are refused, by kind
    cgroup     a control group around it, where the machine lends one
    command    the command line around the interpreter, and the proof that it holds on this machine
    watch      memory, processes and CPU time of a whole sandbox while it runs
    run        one program, from its source to what became of it
    driver     the part that runs inside: compiles the program, runs it or calls its function

What was expected of a program never enters the sandbox: outputs are compared outside, so nothing that the
program reads, patches or kills in there can make a wrong answer right.
"""
