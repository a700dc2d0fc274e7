/* Preloaded into a process, counts its syncs of each kind of file: `count_of_syncs`. The kinds are
 * journal, directory, database and wal. While SLOW_SYNC names a kind, each of its syncs takes three
 * seconds.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
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

static int count_and_sync(const char *name, int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return real(fd);
    path[length] = '\0';
    const char *kind = ends_with(path, "-journal") ? "journal"
                     : ends_with(path, "-wal")     ? "wal"
                     : ends_with(path, ".db")      ? "database"
                                                   : "directory";
    __atomic_fetch_add(count_of(kind), 1, __ATOMIC_SEQ_CST);
    const char *slow = getenv("SLOW_SYNC");
    if (slow != NULL && strcmp(kind, slow) == 0) sleep(3);
    return real(fd);
}

int fsync(int fd) { return count_and_sync("fsync", fd); }
int fdatasync(int fd) { return count_and_sync("fdatasync", fd); }
