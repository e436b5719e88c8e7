/* A wall clock that can be set, for one process: preloaded, it adds a step to what the system's clock says.
 *
 * The step, in microseconds, is the 8 bytes of the file that CHAOS_CLOCK names, mapped into memory, so that whoever
 * writes the file sets the clock at once. A forked process takes another file with chaos_clock(). Monotonic clocks
 * are left alone, and so is the kernel: what waits until a time, or what files are stamped with, knows nothing of it.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile const long long none = 0;
static volatile const long long *step = &none;

int chaos_clock(const char *path) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return -1;
    void *found = mmap(NULL, sizeof(long long), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (found == MAP_FAILED) return -1;
    step = found;
    return 0;
}

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CHAOS_CLOCK");
    if (path) chaos_clock(path);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (failed || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE) || !*step) return failed;
    long long nanoseconds = now->tv_nsec + (*step % 1000000) * 1000;
    now->tv_sec += *step / 1000000 + nanoseconds / 1000000000;
    now->tv_nsec = nanoseconds % 1000000000;
    if (now->tv_nsec < 0) {
        now->tv_nsec += 1000000000;
        now->tv_sec -= 1;
    }
    return 0;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec found;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &found)) return -1;
    now->tv_sec = found.tv_sec;
    now->tv_usec = found.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (now) *now = found.tv_sec;
    return found.tv_sec;
}
