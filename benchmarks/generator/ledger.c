#include "ledger.h"

#include <stdio.h>
#include <stdlib.h>

static void miss(struct ledger *ledger, uint32_t sequence) {
    if (ledger->missing_count == ledger->missing_capacity) {
        ledger->missing_capacity = ledger->missing_capacity ? 2 * ledger->missing_capacity : 16;
        ledger->missing = realloc(ledger->missing, ledger->missing_capacity * sizeof *ledger->missing);
        if (!ledger->missing) {
            fputs("out of memory\n", stderr);
            exit(1);
        }
    }
    ledger->missing[ledger->missing_count++] = sequence;
}

static bool find_missing(struct ledger *ledger, uint32_t sequence) {
    for (size_t i = 0; i < ledger->missing_count; i++)
        if (ledger->missing[i] == sequence) {
            ledger->missing[i] = ledger->missing[--ledger->missing_count];
            return true;
        }
    return false;
}

bool ledger_enter(struct ledger *ledger, uint32_t sequence, struct faults *faults) {
    if (sequence == ledger->next) {
        ledger->next++;
        return true;
    }
    if (sequence > ledger->next) {
        while (ledger->next < sequence)
            miss(ledger, ledger->next++);
        ledger->next++;
        return true;
    }
    if (find_missing(ledger, sequence)) {
        faults->disordered++;
        return true;
    }
    faults->doubled++;
    return false;
}

void ledger_close(struct ledger *ledger, uint32_t published, struct faults *faults) {
    faults->lost += ledger->missing_count;
    if (published > ledger->next)
        faults->lost += published - ledger->next;
    free(ledger->missing);
    *ledger = (struct ledger){0};
}

void print_checked(uint64_t published, uint64_t expected, uint64_t delivered, const struct faults *faults) {
    printf("\"checked\": {\"published\": %llu, \"expected\": %llu, \"delivered\": %llu, ",
           (unsigned long long)published, (unsigned long long)expected, (unsigned long long)delivered);
    printf("\"lost\": %llu, \"doubled\": %llu, \"disordered\": %llu, \"damaged\": %llu, \"misdirected\": %llu}",
           (unsigned long long)faults->lost, (unsigned long long)faults->doubled,
           (unsigned long long)faults->disordered, (unsigned long long)faults->damaged,
           (unsigned long long)faults->misdirected);
}
