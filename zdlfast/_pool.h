/* A small pool of threads that help a caller with its work, one caller at a time. */

#ifndef ZDLFAST_POOL_H
#define ZDLFAST_POOL_H

#include <stddef.h>

enum { ZDL_MAX_THREADS = 256 };

/* Does one chunk of a job. Chunks are done in any order, each one once. */
typedef void (*zdl_chunk)(void *job, size_t chunk);

/* Do all chunks of a job on up to `threads` threads, the caller being one of them.
 *
 * Helpers are started when they are first needed. If another thread uses the pool, or no
 * helper can be started, the caller does all the work. Needs neither Python nor memory. */
void zdl_run(zdl_chunk run, void *job, size_t chunks, int threads);

/* Whether this is asked again and again within moments: helpers stay awake between such jobs,
 * so that even short ones pay. */
int zdl_in_a_row(void);

#endif
