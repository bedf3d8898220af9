/* What one subscriber got of one publisher's numbers, 0, 1, 2, …, and what was wrong with it. */
#ifndef LEDGER_H
#define LEDGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Counted over all subscribers. A run without faults has zeros only. */
struct faults {
    uint64_t lost;       /* never came */
    uint64_t doubled;    /* came before */
    uint64_t disordered; /* came after a later one */
    uint64_t damaged;    /* is not, to the last byte, what was published */
    uint64_t misdirected; /* was published to another topic */
};

struct ledger {
    uint32_t next; /* all below it have come, but for the missing */
    uint32_t *missing;
    size_t missing_count;
    size_t missing_capacity;
};

/* Enter a number that came. False: it is not to be counted as a delivery, because it came before. */
bool ledger_enter(struct ledger *ledger, uint32_t sequence, struct faults *faults);

/* Enter that no more will come, of `published` numbers. */
void ledger_close(struct ledger *ledger, uint32_t published, struct faults *faults);

/* Print all of it, as a member of a JSON object. */
void print_checked(uint64_t published, uint64_t expected, uint64_t delivered, const struct faults *faults);

#endif
