/* Preloaded into a process, makes one kind of sync fail with EIO while FAILING_SYNC names it:
 *   journal    of a rollback journal, once the database file was synced
 *   directory  of a directory, once the database file was synced
 *   database   of the database file
 *   wal        of the write-ahead log
 * While SLOW_SYNC names it, each sync of that kind takes three seconds.
 * Counts the syncs of each kind: `count_of_syncs`.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int ends_with(const char *text, const char *end) {
    size_t text_length = strlen(text), end_length = strlen(end);
    return text_length >= end_length && strcmp(text + text_length - end_length, end) == 0;
}

static const char *const KINDS[] = {"journal", "directory", "database", "wal"};
static int counts[4];

static int *count_of(const char *kind) {
    for (size_t at = 0; at < 3; at++) {
        if (strcmp(KINDS[at], kind) == 0) return &counts[at];
    }
    return &counts[3];
}

int count_of_syncs(const char *kind) { return __atomic_load_n(count_of(kind), __ATOMIC_SEQ_CST); }

static int must_fail(int fd) {
    static int database_synced = 0;
    const char *wanted = getenv("FAILING_SYNC");
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = '\0';
    const char *kind = ends_with(path, "-journal") ? "journal"
                     : ends_with(path, "-wal")     ? "wal"
                     : ends_with(path, ".db")      ? "database"
                                                   : "directory";
    __atomic_fetch_add(count_of(kind), 1, __ATOMIC_SEQ_CST);
    const char *slow = getenv("SLOW_SYNC");
    if (slow != NULL && strcmp(kind, slow) == 0) sleep(3);
    if (wanted == NULL) return 0;
    int after_database = strcmp(kind, "journal") == 0 || strcmp(kind, "directory") == 0;
    int fails = strcmp(kind, wanted) == 0 && (database_synced || !after_database);
    if (strcmp(kind, "database") == 0) database_synced = 1;
    return fails;
}

static int sync_or_fail(const char *name, int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    if (must_fail(fd)) {
        errno = EIO;
        return -1;
    }
    return real(fd);
}

int fsync(int fd) { return sync_or_fail("fsync", fd); }
int fdatasync(int fd) { return sync_or_fail("fdatasync", fd); }
