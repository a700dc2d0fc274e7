/* Preloaded into a process, makes each of its syncs SLOW_DISK_US microseconds longer. Syncs of several
 * threads and processes overlap, as they do on a disk that merges flushes.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>

static int sync_slowly(const char *name, int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    const char *text = getenv("SLOW_DISK_US");
    long wait = text == NULL ? 0 : atol(text);
    struct timespec left = {wait / 1000000, wait % 1000000 * 1000};
    int slack = prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0);
    /* The kernel may wake a thread 50 us late unless it is told otherwise. */
    prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
    while (clock_nanosleep(CLOCK_MONOTONIC, 0, &left, &left) == EINTR) continue;
    prctl(PR_SET_TIMERSLACK, slack, 0, 0, 0);
    return real(fd);
}

int fsync(int fd) { return sync_slowly("fsync", fd); }
int fdatasync(int fd) { return sync_slowly("fdatasync", fd); }
