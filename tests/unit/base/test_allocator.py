"""Threads that come and go leave no memory behind in our programs."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, threading
from orbit_zmq.allocator import limit_arenas

assert limit_arenas()
barrier = threading.Barrier(16)

def work():
    barrier.wait(30)
    bytes(100_000)
    barrier.wait(30)

threads = [threading.Thread(target=work) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


@pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="arenas are glibc's")
def test_sixteen_threads_share_one_arena():
    told = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert told.returncode == 0, told.stderr
    assert told.stdout.count("<heap nr=") == 1
