"""One warm allocator for everyone: memory that was freed is used again.

By default glibc maps each large array anew and gives it back when it is freed, so that NumPy's
temporary arrays cost a page fault for every 4 kB: most of the time of some updates, and nothing
that zdlfast, which has no temporary arrays, could be proud of.
"""

import ctypes

# Of <malloc.h>.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
LARGEST = 2**31 - 1
KEEPS, DEFAULT = "freed memory is kept and used again (mallopt)", "the C library's default"


def keep_memory() -> str:
    """Have the C library keep what is freed, where it is glibc; tell what holds from now on."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library; Windows
        return DEFAULT
    # Some versions refuse a threshold above 32 MB; all of them know "never map".
    mapped = mallopt(M_MMAP_THRESHOLD, LARGEST) or mallopt(M_MMAP_MAX, 0)
    return KEEPS if mallopt(M_TRIM_THRESHOLD, LARGEST) and mapped else DEFAULT


def give_back() -> None:
    """Give what is free back to the system, so that it shows how much there is."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return
