/* Mutexes and condition variables of the platform, for the thread pool and the locks. */

#ifndef ZDLFAST_PLATFORM_H
#define ZDLFAST_PLATFORM_H

#ifdef _WIN32

#include <windows.h>

typedef SRWLOCK zdl_mutex;
typedef CONDITION_VARIABLE zdl_condition;
#define ZDL_MUTEX_INIT SRWLOCK_INIT
#define ZDL_CONDITION_INIT CONDITION_VARIABLE_INIT

static inline void lock(zdl_mutex *m) { AcquireSRWLockExclusive(m); }
static inline int try_lock(zdl_mutex *m) { return TryAcquireSRWLockExclusive(m); }
static inline void unlock(zdl_mutex *m) { ReleaseSRWLockExclusive(m); }
static inline void sleep_on(zdl_condition *c, zdl_mutex *m)
{
    SleepConditionVariableSRW(c, m, INFINITE, 0);
}
static inline void sleep_at_most(zdl_condition *c, zdl_mutex *m, unsigned milliseconds)
{
    SleepConditionVariableSRW(c, m, milliseconds, 0);
}
static inline void wake(zdl_condition *c) { WakeConditionVariable(c); }

#else

#include <pthread.h>
#include <time.h>

typedef pthread_mutex_t zdl_mutex;
typedef pthread_cond_t zdl_condition;
#define ZDL_MUTEX_INIT PTHREAD_MUTEX_INITIALIZER
#define ZDL_CONDITION_INIT PTHREAD_COND_INITIALIZER

static inline void lock(zdl_mutex *m) { pthread_mutex_lock(m); }
static inline int try_lock(zdl_mutex *m) { return pthread_mutex_trylock(m) == 0; }
static inline void unlock(zdl_mutex *m) { pthread_mutex_unlock(m); }
static inline void sleep_on(zdl_condition *c, zdl_mutex *m) { pthread_cond_wait(c, m); }
static inline void sleep_at_most(zdl_condition *c, zdl_mutex *m, unsigned milliseconds)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += milliseconds / 1000;
    until.tv_nsec += (long)(milliseconds % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_cond_timedwait(c, m, &until);
}
static inline void wake(zdl_condition *c) { pthread_cond_signal(c); }

#endif

#endif
