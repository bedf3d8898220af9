#define _GNU_SOURCE

#include "usage.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static double ticks(double count) {
    return count / (double)sysconf(_SC_CLK_TCK);
}

static double of_process(int pid) {
    char path[64], line[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "r");
    size_t length = file ? fread(line, 1, sizeof line - 1, file) : 0;
    if (file)
        fclose(file);
    line[length] = 0;
    /* The name, in brackets, may hold anything; user and system time are the 12th and 13th field behind it. */
    const char *behind = strrchr(line, ')');
    unsigned long user = 0, system = 0;
    if (behind)
        sscanf(behind + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system);
    return ticks((double)user + (double)system);
}

/* User, nice, system, irq, softirq and steal, but neither idle nor waiting for a disk. */
static double of_machine(void) {
    unsigned long long user = 0, nice = 0, system = 0, irq = 0, softirq = 0, steal = 0;
    FILE *file = fopen("/proc/stat", "r");
    if (!file)
        return 0;
    int read = fscanf(file, "cpu %llu %llu %llu %*u %*u %llu %llu %llu", &user, &nice, &system, &irq, &softirq, &steal);
    fclose(file);
    return read == 6 ? ticks((double)(user + nice + system + irq + softirq + steal)) : 0;
}

struct usage usage_now(const int *servers, int count) {
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    struct usage usage = {.generator = (double)time.tv_sec + (double)time.tv_nsec / 1e9};
    usage.others = of_machine() - usage.generator;
    for (int i = 0; i < count; i++) {
        double used = of_process(servers[i]);
        usage.others -= used;
        if (i == 0)
            usage.server = used;
    }
    return usage;
}
