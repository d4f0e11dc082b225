/* Stresses the lock, for sanitizers: several threads that take it, wait for it, lose patience and
 * look after the order of the queue, and (with an argument, and without a sanitizer, whose own
 * locks do not survive them) forks in the middle of all that.
 *
 *     gcc -g -O1 -fsanitize=thread -std=gnu11 -pthread -o lock tests/lock.c && ./lock
 *     gcc -O2 -std=gnu11 -pthread -o lock tests/lock.c && ./lock forks
 */

#include "../zdlfast/_lock.c"

#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { THREADS = 5, ROUNDS = 20000, IMPATIENT = 7, LONG = 10000, FORKS = 50 };

/* Two of them, so that their queues share what guards both. */
static zdl_lock locks[2];
static long changes[2];          /* guarded by the locks */
static _Atomic long done[2];     /* the changes that there should be */
static _Atomic int stop;

static void check(int good, const char *what)
{
    if (!good) {
        printf("not so: %s\n", what);
        exit(1);
    }
}

/* Take a lock; 0 if patience ended before. */
static int take(zdl_lock *l, int writes, int patient)
{
    zdl_waiter *waiter = NULL;
    if (zdl_lock_try(l, writes))
        return 1;
    switch (zdl_lock_queue(l, writes, &waiter)) {
    case ZDL_TAKEN:
        return 1;
    case ZDL_QUEUED:
        break;
    default:
        check(0, "a lock of another thread can be waited for");
    }
    if (!patient) {
        zdl_lock_leave(l, waiter); /* it may have been this one's turn already */
        return 0;
    }
    while (!zdl_lock_wait(waiter, LONG))
        ;
    return 1;
}

static void use(int which, int round)
{
    zdl_lock *l = &locks[which];
    zdl_waiter *waiter;
    if (!take(l, 1, round % IMPATIENT))
        return;
    changes[which]++;
    atomic_fetch_add(&done[which], 1);
    if (round % 16 == 0)
        check(zdl_lock_queue(l, round % 2, &waiter) == ZDL_OWN, "one's own lock is told");
    zdl_lock_release(l);
}

static void *call(void *argument)
{
    int round, first = (int)(size_t)argument;
    for (round = first; round < first + ROUNDS && !stop; round++)
        use(round / 3 % 2, round);
    return NULL;
}

/* ------------------------------------------------------------------ the order */

static int order[THREADS], served;

static void *queue(void *argument)
{
    check(take(&locks[0], 0, 1), "who is patient gets the lock");
    order[served++] = (int)(size_t)argument;
    zdl_lock_release(&locks[0]);
    return NULL;
}

/* How many wait; the queue is looked at as its users look at it. */
static int length_of_queue(zdl_lock *l)
{
    int n = 0;
    zdl_waiter *waiter;
    lock(&queues);
    for (waiter = atomic_load(&l->waiters); waiter != NULL; waiter = waiter->next)
        n++;
    unlock(&queues);
    return n;
}

static void first_come_first_served(void)
{
    pthread_t threads[THREADS];
    size_t i;
    check(zdl_lock_try(&locks[0], 1), "a new lock is free");
    for (i = 0; i < THREADS; i++) {
        pthread_create(&threads[i], NULL, queue, (void *)i);
        while (length_of_queue(&locks[0]) != (int)i + 1)
            sched_yield();
    }
    zdl_lock_release(&locks[0]);
    for (i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (i = 0; i < THREADS; i++)
        check(order[i] == (int)i, "who comes first is served first");
}

/* ------------------------------------------------------------------ forks */

/* Reads and writes for ever, the second lock by reading alone. */
static void *hold(void *argument)
{
    (void)argument;
    while (!stop) {
        if (take(&locks[0], 1, 1))
            zdl_lock_release(&locks[0]);
        if (take(&locks[1], 0, 1))
            zdl_lock_release(&locks[1]);
    }
    return NULL;
}

/* In the child of a fork: a lock is free or lost, and nobody hangs. */
static void child(void)
{
    int round, which;
    for (which = 0; which < 2; which++) {
        for (round = 0; round < 3; round++) {
            zdl_waiter *waiter = NULL;
            int found = ZDL_TAKEN;
            if (!zdl_lock_try(&locks[which], 1))
                found = zdl_lock_queue(&locks[which], 1, &waiter);
            if (found == ZDL_LOST) {
                check(which == 0, "what was only read is not lost");
                check(round == 0 || locks[which].lost, "what is lost stays so");
            } else {
                check(found == ZDL_TAKEN, "after a fork a lock is free or lost");
                zdl_lock_release(&locks[which]);
            }
        }
    }
}

static void forks(void)
{
    pthread_t threads[THREADS];
    int i, status;
    for (i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, hold, NULL);
    for (i = 0; i < FORKS; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            alarm(60);
            child();
            _exit(0);
        }
        check(waitpid(pid, &status, 0) == pid && status == 0, "a child ends well");
    }
    stop = 1;
    for (i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    /* The thread that forks, and has the lock, has it in the child too. */
    check(zdl_lock_try(&locks[0], 1), "the lock is free again");
    if ((i = fork()) == 0) {
        zdl_waiter *waiter;
        check(zdl_lock_queue(&locks[0], 1, &waiter) == ZDL_OWN, "a fork takes its lock along");
        zdl_lock_release(&locks[0]);
        check(take(&locks[0], 0, 1), "and can give it back");
        _exit(0);
    }
    check(waitpid(i, &status, 0) == i && status == 0, "the last child ends well");
}

int main(int count, char **arguments)
{
    pthread_t threads[THREADS];
    size_t i;
    (void)arguments;
    check(zdl_locks_start() == 0, "forks are prepared for");
    for (i = 0; i < 2; i++)
        zdl_lock_init(&locks[i]);
    first_come_first_served();
    for (i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, call, (void *)i);
    for (i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (i = 0; i < 2; i++) {
        check(changes[i] == done[i] && changes[i] > 0, "no change is lost");
        check(locks[i].owner == 0 && locks[i].waiters == NULL, "in the end nobody is left");
    }
    if (count > 1)
        forks();
    puts("fine");
    return 0;
}
