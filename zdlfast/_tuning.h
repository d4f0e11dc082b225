/* Numbers that decide how long an update takes, and never what it computes.
 *
 * They are variables because `python -m bench machine` measures what each of them gains or costs
 * on a machine, and because tests reach both sides of each on small arrays. */

#ifndef ZDLFAST_TUNING_H
#define ZDLFAST_TUNING_H

#include <stddef.h>

struct zdl_tuning {
    ptrdiff_t align_from;      /* bytes of a parameter, at least 64, from which on it pays to start
                                * at a cache line */
    ptrdiff_t fetch_from;      /* bytes of an entry from which on prefetching pays */
    ptrdiff_t fetch_step;      /* bytes of a parameter between two bursts of prefetches */
    ptrdiff_t fetch_ahead;     /* steps from a prefetch to the use */
    ptrdiff_t release_from;    /* bytes of an update from which on giving up the GIL pays */
    ptrdiff_t help_from;       /* bytes of an update from which on to wake helpers pays */
    ptrdiff_t help_from_awake; /* the same if one update follows the other */
    ptrdiff_t shortest_chunk;  /* bytes */
    ptrdiff_t longest_chunk;
    double spin;               /* seconds for which a thread looks out before it sleeps */
};

extern struct zdl_tuning zdl_tuning;

#endif
