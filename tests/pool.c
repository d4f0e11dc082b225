/* Stresses the thread pool, for sanitizers: several callers, nested calls, changing numbers of
 * threads, pauses in which helpers fall asleep, and (with an argument, and without a sanitizer,
 * whose own locks do not survive them) forks.
 *
 *     gcc -g -O1 -fsanitize=thread -std=gnu11 -pthread -o pool tests/pool.c && ./pool
 *     gcc -O2 -std=gnu11 -pthread -o pool tests/pool.c && ./pool forks
 */

#include "../zdlfast/_pool.c"
#include "../zdlfast/_tuning.c"

#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CHUNKS = 37, LENGTH = 64, ROUNDS = 2000, CALLERS = 3 };

static void add_one(void *job, size_t chunk)
{
    double *elements = (double *)job + chunk * LENGTH;
    int i;
    for (i = 0; i < LENGTH; i++)
        elements[i] += 1;
}

static void nested(void *job, size_t chunk)
{
    double others[CHUNKS * LENGTH] = {0};
    add_one(job, chunk);
    if (chunk < 8)
        zdl_run(add_one, others, CHUNKS, 4); /* the pool is busy: runs here */
}

static void *call(void *argument)
{
    double *elements = calloc(CHUNKS * LENGTH, sizeof(double));
    int round, i;
    (void)argument;
    for (round = 0; round < ROUNDS; round++) {
        zdl_run(round % 7 ? add_one : nested, elements, CHUNKS, 1 + round % 6);
        zdl_in_a_row();
        if (round % 100 == 0) {
            struct timespec pause = {0, 200000};
            nanosleep(&pause, NULL);
        }
    }
    for (i = 0; i < CHUNKS * LENGTH; i++) {
        if (elements[i] != ROUNDS) {
            printf("element %d was done %g times, not %d\n", i, elements[i], ROUNDS);
            exit(1);
        }
    }
    free(elements);
    return NULL;
}

int main(int count, char **arguments)
{
    pthread_t callers[CALLERS];
    int i, status;
    (void)arguments;
    for (i = 0; i < CALLERS; i++)
        pthread_create(&callers[i], NULL, call, NULL);
    for (i = 0; count > 1 && i < 20; i++) {
        pid_t child = fork();
        if (child == 0) {
            call(NULL);
            _exit(0);
        }
        if (waitpid(child, &status, 0) != child || status != 0) {
            printf("child %d ended with status %d\n", i, status);
            exit(1);
        }
    }
    for (i = 0; i < CALLERS; i++)
        pthread_join(callers[i], NULL);
    puts("fine");
    return 0;
}
