#define _GNU_SOURCE /* for pthread_atfork */
#include "_lock.h"

#include <stdlib.h>

#include "_platform.h"

/* Not on the waiter's stack, which is gone after a fork, or if the interpreter ends. */
struct zdl_waiter {
    zdl_waiter *next;
    zdl_condition called;
    uintptr_t owner; /* of the lock, when it is this one's turn */
    int taken;
};

unsigned zdl_process;
static uintptr_t survivor;                   /* the one thread that came along in the last fork */
static zdl_mutex queues = ZDL_MUTEX_INIT;    /* guards those of all locks: few ever wait */

/* The order of memory. All below is done under that mutex, and most of it is relaxed: what is
 * written here is read here, or as a hint. But a lock is taken and released without the mutex:
 *
 * - The next owner has to see what the last one wrote: release when one goes, acquire when the
 *   next one comes.
 * - Who releases writes that nobody owns the lock, and reads whether somebody waits; who queues
 *   writes that it waits, and reads the owner. One of them has to see the other, or a waiter would
 *   sleep beside a free lock: memory_order_seq_cst for these four. */

#ifndef _WIN32
static void after_fork_in_child(void)
{
    static const zdl_mutex new_mutex = ZDL_MUTEX_INIT;
    zdl_process++;
    survivor = zdl_this_thread();
    queues = new_mutex;
}
#endif

int zdl_locks_start(void)
{
#ifdef _WIN32
    return 0;
#else
    /* In C, because hooks in Python may use a lock before one of ours would run. */
    return pthread_atfork(NULL, NULL, after_fork_in_child);
#endif
}

/* After a fork: nobody waits, and who had the lock may be gone. */
static void look_after_fork(zdl_lock *l)
{
    uintptr_t owner = atomic_load_explicit(&l->owner, memory_order_relaxed);
    if (atomic_load_explicit(&l->process, memory_order_relaxed) == zdl_process)
        return;
    atomic_store_explicit(&l->waiters, NULL, memory_order_relaxed);
    if (owner != 0 && (owner & ~(uintptr_t)1) != survivor) {
        if (owner & 1)
            l->lost = 1;
        else /* it only read: there is nothing to see */
            atomic_store_explicit(&l->owner, 0, memory_order_relaxed);
    }
    atomic_store_explicit(&l->process, zdl_process, memory_order_relaxed);
}

static void give_to_first(zdl_lock *l)
{
    zdl_waiter *first = atomic_load_explicit(&l->waiters, memory_order_relaxed);
    uintptr_t nobody = 0;
    if (first != NULL && atomic_compare_exchange_strong_explicit(
                             &l->owner, &nobody, first->owner, memory_order_seq_cst,
                             memory_order_seq_cst)) {
        atomic_store_explicit(&l->waiters, first->next, memory_order_relaxed);
        first->taken = 1;
        wake(&first->called);
    }
}

void zdl_lock_hand_over(zdl_lock *l)
{
    lock(&queues);
    look_after_fork(l);
    give_to_first(l);
    unlock(&queues);
}

int zdl_lock_queue(zdl_lock *l, int writes, zdl_waiter **waiter)
{
    static const zdl_condition new_condition = ZDL_CONDITION_INIT;
    uintptr_t me = zdl_this_thread();
    zdl_waiter *mine = malloc(sizeof *mine), *last;
    int found = ZDL_QUEUED;
    lock(&queues);
    look_after_fork(l);
    if (l->lost)
        found = ZDL_LOST;
    else if ((atomic_load_explicit(&l->owner, memory_order_relaxed) & ~(uintptr_t)1) == me)
        found = ZDL_OWN;
    else if (mine == NULL)
        found = ZDL_NO_MEMORY;
    if (found == ZDL_QUEUED) {
        mine->next = NULL;
        mine->called = new_condition;
        mine->owner = me + (writes != 0);
        mine->taken = 0;
        last = atomic_load_explicit(&l->waiters, memory_order_relaxed);
        if (last == NULL) {
            atomic_store_explicit(&l->waiters, mine, memory_order_seq_cst);
        } else {
            while (last->next != NULL)
                last = last->next;
            last->next = mine;
        }
        give_to_first(l);
        if (mine->taken)
            found = ZDL_TAKEN;
    }
    unlock(&queues);
    if (found == ZDL_QUEUED)
        *waiter = mine;
    else
        free(mine);
    return found;
}

int zdl_lock_wait(zdl_waiter *waiter, unsigned milliseconds)
{
    int taken;
    lock(&queues);
    if (!waiter->taken)
        sleep_at_most(&waiter->called, &queues, milliseconds);
    taken = waiter->taken;
    unlock(&queues);
    if (taken)
        free(waiter);
    return taken;
}

void zdl_lock_leave(zdl_lock *l, zdl_waiter *waiter)
{
    zdl_waiter *before;
    lock(&queues);
    before = atomic_load_explicit(&l->waiters, memory_order_relaxed);
    if (waiter->taken) {
        /* Whoever queues is kept out by the mutex: the next owner's acquire is all to answer. */
        atomic_store_explicit(&l->owner, 0, memory_order_release);
        give_to_first(l);
    } else if (before == waiter) {
        atomic_store_explicit(&l->waiters, waiter->next, memory_order_relaxed);
    } else {
        while (before != NULL && before->next != waiter)
            before = before->next;
        if (before != NULL)
            before->next = waiter->next;
    }
    unlock(&queues);
    free(waiter);
}
