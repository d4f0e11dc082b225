/* A lock that knows which thread has it, and in which process.
 *
 * Whoever comes first is served first. A thread that asks for a lock of its own is told so. After
 * a fork, what another thread of the parent was only reading is free; what it was changing is
 * lost. Taking and releasing a free lock is one atomic operation each. Nothing here needs Python. */

#ifndef ZDLFAST_LOCK_H
#define ZDLFAST_LOCK_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#ifdef _WIN32
#include <windows.h>
static inline uintptr_t zdl_this_thread(void) { return (uintptr_t)GetCurrentThreadId(); }
#else
#include <pthread.h>
static inline uintptr_t zdl_this_thread(void) { return (uintptr_t)pthread_self(); }
#endif

typedef struct zdl_waiter zdl_waiter;

typedef struct {
    _Atomic uintptr_t owner;        /* the thread, plus 1 if it writes; 0: nobody */
    _Atomic(zdl_waiter *) waiters;  /* first come, first served */
    _Atomic unsigned process;       /* zdl_process when the lock was last looked at */
    int lost;                       /* a fork left half of a change behind */
} zdl_lock;

/* What became of an attempt to take a lock. */
enum { ZDL_TAKEN, ZDL_QUEUED, ZDL_OWN, ZDL_LOST, ZDL_NO_MEMORY };

/* Grows with each fork, in the child. */
extern unsigned zdl_process;

/* Once per process, before the first lock. */
int zdl_locks_start(void);

static inline void zdl_lock_init(zdl_lock *l)
{
    atomic_init(&l->owner, 0);
    atomic_init(&l->waiters, NULL);
    atomic_init(&l->process, zdl_process);
    l->lost = 0;
}

/* Take a lock that nobody has or waits for. Two hints, and then the one look that counts. */
static inline int zdl_lock_try(zdl_lock *l, int writes)
{
    uintptr_t nobody = 0;
    return atomic_load_explicit(&l->process, memory_order_relaxed) == zdl_process &&
           atomic_load_explicit(&l->waiters, memory_order_relaxed) == NULL &&
           atomic_compare_exchange_strong_explicit(
               &l->owner, &nobody, zdl_this_thread() + (writes != 0), memory_order_acquire,
               memory_order_relaxed);
}

/* Take a lock or queue for it; `waiter` is set if the answer is ZDL_QUEUED. */
int zdl_lock_queue(zdl_lock *l, int writes, zdl_waiter **waiter);

/* Wait in the queue, at most so long. Once the lock is taken the waiter is gone. */
int zdl_lock_wait(zdl_waiter *waiter, unsigned milliseconds);

/* Wait no longer. */
void zdl_lock_leave(zdl_lock *l, zdl_waiter *waiter);

/* Give a lock to the first in its queue. */
void zdl_lock_hand_over(zdl_lock *l);

static inline void zdl_lock_release(zdl_lock *l)
{
    /* Both in one order with the queue's (_lock.c): no waiter is overlooked. */
    atomic_store_explicit(&l->owner, 0, memory_order_seq_cst);
    if (atomic_load_explicit(&l->waiters, memory_order_seq_cst) != NULL)
        zdl_lock_hand_over(l);
}

#endif
