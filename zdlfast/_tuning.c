#include "_tuning.h"

#include <stdint.h>

struct zdl_tuning zdl_tuning = {
    .align_from = 4096,
    .fetch_from = PTRDIFF_MAX, /* never; the engine knows for which CPUs it is less */
    .fetch_step = 256,
    .fetch_ahead = 2,
    .release_from = 1572864, /* some 30 us */
    .help_from = 4194304,    /* 50 to 130 us */
    .help_from_awake = 524288,
    .shortest_chunk = 65536, /* some microseconds */
    .longest_chunk = 1048576,
    .spin = 50e-6, /* to be woken takes a helper that long or longer */
};
