"""Runs a program and holds single threads of it, as a deadlock or a stuck system call would.

Arguments: the program and its own. Each line of standard input is a command: `hold NAME` stops the thread of that name and
says so on standard error, `release` lets it go on. A parent may trace its children also where others may not.
"""

import ctypes
import os
import subprocess
import sys

PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH = 0x4206, 0x4207, 17
PR_SET_PDEATHSIG, SIGKILL = 1, 9
WALL = 0x40000000

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long] * 4
libc.ptrace.restype = ctypes.c_long


def ptrace(request, thread):
    if libc.ptrace(request, thread, 0, 0) == -1:
        error = ctypes.get_errno()
        raise OSError(error, f"ptrace request {request:#x}: {os.strerror(error)}")


def thread_of(process, name):
    for thread in os.listdir(f"/proc/{process}/task"):
        with open(f"/proc/{process}/task/{thread}/comm") as comm:
            if comm.read().strip() == name:
                return int(thread)
    raise LookupError(f"no thread is called {name}")


child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, SIGKILL))
held = None
for line in iter(sys.stdin.readline, ""):
    command, _, name = line.strip().partition(" ")
    if command == "hold":
        held = thread_of(child.pid, name)
        ptrace(PTRACE_SEIZE, held)
        ptrace(PTRACE_INTERRUPT, held)
        os.waitpid(held, WALL)
        print(f"held {name}", file=sys.stderr, flush=True)
    elif command == "release":
        ptrace(PTRACE_DETACH, held)
        print("released", file=sys.stderr, flush=True)
child.terminate()
sys.exit(child.wait())
