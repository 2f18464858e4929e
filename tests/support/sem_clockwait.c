/* glibc's sem_clockwait, which Python's locks wait with, for a process under a libfaketime that does not know it:
   else a wait for a time on the fast clock ends when the slow one comes to it. Built by fast_clock.py and preloaded
   before libfaketime; SPEED says how many times as fast its clocks go. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int sem_clockwait(sem_t *sem, clockid_t clock, const struct timespec *until) {
    struct timespec fast, real;
    clock_gettime(clock, &fast); /* libfaketime's */
    syscall(SYS_clock_gettime, CLOCK_REALTIME, &real);
    double left = (until->tv_sec - fast.tv_sec + (until->tv_nsec - fast.tv_nsec) / 1e9) / atof(getenv("SPEED"));
    if (left > 0) {
        double end = real.tv_nsec / 1e9 + left;
        real.tv_sec += (time_t)end;
        real.tv_nsec = (long)((end - (time_t)end) * 1e9);
    }
    /* libfaketime would change the time of its own sem_timedwait once more: the C library's is asked. */
    static int (*wait)(sem_t *, const struct timespec *);
    if (wait == NULL)
        wait = (int (*)(sem_t *, const struct timespec *))dlsym(dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD), "sem_timedwait");
    return wait(sem, &real);
}
