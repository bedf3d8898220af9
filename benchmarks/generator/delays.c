#include "delays.h"

#include <math.h>

/* The upper end of a bucket. */
static uint64_t bucket_end(unsigned bucket) {
    if (bucket < 1 << DELAY_BITS)
        return bucket;
    /* The inverse of delay_bucket: the top bits there are from 64 to 127. */
    unsigned shift = (bucket >> DELAY_BITS) - 1;
    uint64_t top = (bucket & ((1 << DELAY_BITS) - 1)) + (1 << DELAY_BITS);
    return ((top + 1) << shift) - 1;
}

uint64_t delays_quantile(const struct delays *delays, double share) {
    uint64_t wanted = (uint64_t)ceil(share * (double)delays->count), seen = 0;
    if (!delays->count)
        return 0;
    if (!wanted)
        wanted = 1;
    for (unsigned bucket = 0; bucket < DELAY_BUCKETS; bucket++) {
        seen += delays->buckets[bucket];
        if (seen >= wanted)
            return bucket_end(bucket);
    }
    return bucket_end(DELAY_BUCKETS - 1);
}
