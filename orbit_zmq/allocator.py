"""Keep the C library's allocator from holding memory that nobody uses, in processes that run for months.

glibc gives each thread that allocates an arena of its own, up to eight a core, and what is freed in an arena seldom goes
back to the system. With threads that come and go a process grows by many megabytes a day and holds nothing. For programs of
ours alone: a user's process, in which a client is a guest, keeps its own settings.
"""

from __future__ import annotations

import ctypes

M_ARENA_MAX = -8  # of malloc.h
ARENAS = 1  # the interpreter lets its threads allocate one at a time, and ZeroMQ allocates little


def limit_arenas() -> bool:
    """Share one arena among all threads that start from now on; False where the C library is not glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(M_ARENA_MAX, ARENAS))
