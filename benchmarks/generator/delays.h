/*
 * A histogram of delays, exact to 1/64: each power of two of nanoseconds is cut into 64.
 */
#ifndef DELAYS_H
#define DELAYS_H

#include <stdint.h>

enum { DELAY_BITS = 6, DELAY_BUCKETS = (64 - DELAY_BITS) << DELAY_BITS };

struct delays {
    uint64_t count;
    uint64_t buckets[DELAY_BUCKETS];
};

static inline unsigned delay_bucket(uint64_t nanoseconds) {
    if (nanoseconds < 1 << DELAY_BITS)
        return (unsigned)nanoseconds;
    unsigned shift = 63 - (unsigned)__builtin_clzll(nanoseconds) - DELAY_BITS;
    return (shift << DELAY_BITS) + (unsigned)(nanoseconds >> shift);
}

static inline void delays_add(struct delays *delays, uint64_t nanoseconds) {
    unsigned bucket = delay_bucket(nanoseconds);
    delays->buckets[bucket < DELAY_BUCKETS ? bucket : DELAY_BUCKETS - 1]++;
    delays->count++;
}

/* The delay that a `share` of all (0 to 1) did not exceed, in nanoseconds; 0 where there are none. */
uint64_t delays_quantile(const struct delays *delays, double share);

#endif
