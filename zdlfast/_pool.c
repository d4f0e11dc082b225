#define _GNU_SOURCE /* for affinity */
#include "_pool.h"

#include <stdatomic.h>
#include <stdint.h>

#include "_platform.h"
#include "_tuning.h"

/* ------------------------------------------------------------------ the platform's threads */

#ifdef _WIN32

#define THREAD_RESULT DWORD WINAPI

/* Windows keeps the threads of a process apart by itself. */
typedef struct { int started; } thread_type;
static int this_cpu(void) { return -1; }
static void keep_off(thread_type thread, int cpu) { (void)thread; (void)cpu; }

static double now(void)
{
    LARGE_INTEGER ticks, per_second;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&per_second);
    return (double)ticks.QuadPart / (double)per_second.QuadPart;
}

static int start_thread(thread_type *thread, LPTHREAD_START_ROUTINE body, void *argument)
{
    HANDLE handle = CreateThread(NULL, 0, body, argument, 0, NULL);
    thread->started = handle != NULL;
    if (handle != NULL)
        CloseHandle(handle);
    return thread->started;
}

#else

#include <sched.h>
#include <signal.h>

#define THREAD_RESULT void *

typedef pthread_t thread_type;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int start_thread(thread_type *thread, void *(*body)(void *), void *argument)
{
    /* What the kernel sends a thread for what it does itself: blocked, a crash would leave no
     * trace. All other signals are for the program's own threads. */
    static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS};
    sigset_t blocked, before;
    size_t i;
    int failed;
    sigfillset(&blocked);
    for (i = 0; i < sizeof own / sizeof own[0]; i++)
        sigdelset(&blocked, own[i]);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    failed = pthread_create(thread, NULL, body, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed)
        return 0;
    pthread_detach(*thread);
    return 1;
}

#ifdef __linux__

static int this_cpu(void) { return sched_getcpu(); }

/* Let a thread run on every CPU that this one may use, but not on `cpu`. */
static void keep_off(thread_type thread, int cpu)
{
    cpu_set_t cpus;
    if (sched_getaffinity(0, sizeof cpus, &cpus) != 0)
        return;
    if (cpu >= 0)
        CPU_CLR(cpu, &cpus);
    if (CPU_COUNT(&cpus) > 0)
        pthread_setaffinity_np(thread, sizeof cpus, &cpus);
}

#else

static int this_cpu(void) { return -1; }
static void keep_off(thread_type thread, int cpu) { (void)thread; (void)cpu; }

#endif

#endif

/* ------------------------------------------------------------------ the CPU's modes */

/* Rounding and flush-to-zero, which are a thread's own: helpers work in the caller's. */
#if defined(__SSE__) || defined(_M_X64)

#include <xmmintrin.h>
typedef unsigned int mode_type;
static mode_type get_mode(void) { return _mm_getcsr(); }
static void set_mode(mode_type mode) { _mm_setcsr(mode); }
static void relax(void) { _mm_pause(); }

#elif defined(__aarch64__)

typedef uint64_t mode_type;
static mode_type get_mode(void)
{
    mode_type mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
}
static void set_mode(mode_type mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode)); }
static void relax(void) { __asm__ volatile("yield"); }

#else

#include <fenv.h>
typedef fenv_t mode_type;
static mode_type get_mode(void)
{
    mode_type mode;
    fegetenv(&mode);
    return mode;
}
static void set_mode(mode_type mode) { fesetenv(&mode); }
static void relax(void) {}

#endif

/* ------------------------------------------------------------------ the pool */

/* One thread's share of the chunks; others help with it when they are done with their own.
 * Each has a cache line to itself. */
struct share {
    _Alignas(64) atomic_size_t next;
    size_t end;
};

static zdl_mutex in_use = ZDL_MUTEX_INIT;        /* held by the caller */
static zdl_mutex beds = ZDL_MUTEX_INIT;          /* guards going to sleep */

/* By number, from 1 on; the caller is number 0. */
static struct {
    thread_type thread;
    zdl_condition bed;
    atomic_int asleep;
    atomic_int cpu;                         /* where it was last seen, or -1 */
} helpers[ZDL_MAX_THREADS];
static atomic_int helper_count;             /* started so far */

/* A ticket is the number of a job, times 1024, and how many threads it is for. */
enum { TICKET = 1024 };
static uint64_t last_job;
static _Atomic uint64_t open_job;           /* the ticket of the job to help with, or 0 */
static atomic_int inside;                   /* helpers that may be at work on it */
static atomic_int caller_sleeps;            /* until nobody is inside */
static zdl_condition all_out = ZDL_CONDITION_INIT;

/* The job: written while it is not open and nobody is inside. */
static zdl_chunk run_chunk;
static void *job_data;
static int shares_used;
static mode_type job_mode;
static struct share shares[ZDL_MAX_THREADS];

static void work(int first)
{
    int i;
    size_t chunk;
    for (i = 0; i < shares_used; i++) {
        struct share *share = &shares[(first + i) % shares_used];
        while ((chunk = atomic_fetch_add(&share->next, 1)) < share->end)
            run_chunk(job_data, chunk);
    }
}

/* Whether there is a job for helper `me` that is not `done`. */
static int is_called(uint64_t job, int me, uint64_t done)
{
    return (uint64_t)me < job % TICKET && job != done;
}

/* The ticket of the next job for helper `me`. */
static uint64_t await_job(int me, uint64_t done)
{
    uint64_t job;
    double end = now() + zdl_tuning.spin;
    do {
        job = atomic_load(&open_job);
        if (is_called(job, me, done))
            return job;
        relax();
    } while (now() < end);
    lock(&beds);
    atomic_store(&helpers[me].asleep, 1);
    /* A caller opens its job first and looks for sleepers then: none is forgotten. */
    while (!is_called(job = atomic_load(&open_job), me, done))
        sleep_on(&helpers[me].bed, &beds);
    atomic_store(&helpers[me].asleep, 0);
    unlock(&beds);
    return job;
}

static THREAD_RESULT help(void *number)
{
    int me = (int)(intptr_t)number;
    uint64_t job = 0;
    for (;;) {
        job = await_job(me, job);
        atomic_fetch_add(&inside, 1);
        /* Once inside, the job cannot change; it may have before. */
        if (atomic_load(&open_job) == job) {
            set_mode(job_mode);
            work(me);
        }
        atomic_store(&helpers[me].cpu, this_cpu());
        if (atomic_fetch_sub(&inside, 1) == 1 && atomic_load(&caller_sleeps)) {
            lock(&beds);
            wake(&all_out);
            unlock(&beds);
        }
    }
    return 0;
}

#ifndef _WIN32

/* A child has no helpers, only their traces; perhaps those of a job of another thread, too. */
static void after_fork_in_child(void)
{
    static const zdl_mutex new_lock = ZDL_MUTEX_INIT;
    static const zdl_condition new_condition = ZDL_CONDITION_INIT;
    atomic_store(&helper_count, 0);
    atomic_store(&open_job, 0);
    atomic_store(&inside, 0);
    atomic_store(&caller_sleeps, 0);
    all_out = new_condition;
    beds = new_lock;
    in_use = new_lock;
}

#endif

static void start_helpers(int wanted)
{
    static const zdl_condition new_bed = ZDL_CONDITION_INIT;
    int count;
#ifndef _WIN32
    static int prepared;
    if (!prepared) {
        if (pthread_atfork(NULL, NULL, after_fork_in_child) != 0)
            return;
        prepared = 1;
    }
#endif
    for (count = atomic_load(&helper_count); count < wanted; count++) {
        helpers[count + 1].bed = new_bed;
        atomic_store(&helpers[count + 1].asleep, 0);
        atomic_store(&helpers[count + 1].cpu, -1);
        if (!start_thread(&helpers[count + 1].thread, help, (void *)(intptr_t)(count + 1)))
            break;
        keep_off(helpers[count + 1].thread, this_cpu());
    }
    atomic_store(&helper_count, count);
}

/* Linux may wake a helper on the very CPU that the caller keeps busy, and leave another one
 * idle for milliseconds. */
static void clear_the_way(int threads)
{
    int i, cpu = this_cpu();
    for (i = 1; i < threads && i <= atomic_load(&helper_count); i++) {
        if (cpu >= 0 && atomic_load(&helpers[i].cpu) == cpu) {
            keep_off(helpers[i].thread, cpu);
            atomic_store(&helpers[i].cpu, -1);
        }
    }
}

void zdl_run(zdl_chunk run, void *job, size_t chunks, int threads)
{
    size_t chunk, each, rest;
    double end;
    int i;
    if (threads > ZDL_MAX_THREADS)
        threads = ZDL_MAX_THREADS;
    if (threads < 2 || chunks < 2 || !try_lock(&in_use)) {
        for (chunk = 0; chunk < chunks; chunk++)
            run(job, chunk);
        return;
    }
    start_helpers(threads - 1);
    clear_the_way(threads);

    run_chunk = run;
    job_data = job;
    job_mode = get_mode();
    shares_used = threads;
    each = chunks / (size_t)threads;
    rest = chunks % (size_t)threads;
    for (i = 0, chunk = 0; i < threads; i++) {
        atomic_store(&shares[i].next, chunk);
        chunk += each + ((size_t)i < rest);
        shares[i].end = chunk;
    }
    atomic_store(&open_job, ++last_job * TICKET + (uint64_t)threads);
    for (i = 1; i < threads && i <= atomic_load(&helper_count); i++) {
        if (atomic_load(&helpers[i].asleep)) {
            lock(&beds);
            wake(&helpers[i].bed);
            unlock(&beds);
        }
    }
    work(0);
    /* Nobody comes in any more; whoever is inside has one chunk left at most. A helper that
     * the system keeps from running is not waited for in a loop. */
    atomic_store(&open_job, 0);
    if (atomic_load(&inside) > 0) {
        end = now() + zdl_tuning.spin;
        while (atomic_load(&inside) > 0 && now() < end)
            relax();
    }
    if (atomic_load(&inside) > 0) {
        lock(&beds);
        atomic_store(&caller_sleeps, 1);
        while (atomic_load(&inside) > 0)
            sleep_on(&all_out, &beds);
        atomic_store(&caller_sleeps, 0);
        unlock(&beds);
    }
    unlock(&in_use);
}

int zdl_in_a_row(void)
{
    static _Atomic double asked_before;
    double asked = now();
    return asked - atomic_exchange(&asked_before, asked) < 2 * zdl_tuning.spin;
}
