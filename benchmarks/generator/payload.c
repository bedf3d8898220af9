#include "payload.h"

#include <string.h>

enum { DIGITS = 8, PUBLISHER_AT = 1, SEQUENCE_AT = PUBLISHER_AT + DIGITS + 1, FILL_AT = SEQUENCE_AT + DIGITS };

static void write_number(char *digits, uint32_t number) {
    for (int i = DIGITS - 1; i >= 0; i--, number >>= 4)
        digits[i] = "0123456789abcdef"[number & 15];
}

/* -1 where it is not a digit. */
static int value_of(char digit) {
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

static bool read_number(const char *digits, uint32_t *number) {
    uint32_t result = 0;
    int wrong = 0;
    for (int i = 0; i < DIGITS; i++) {
        int value = value_of(digits[i]);
        wrong |= value;
        result = result << 4 | (uint32_t)(value & 15);
    }
    *number = result;
    return wrong >= 0;
}

void payload_write(char *payload, size_t length, uint32_t publisher, uint32_t sequence) {
    memset(payload, '.', length);
    payload[0] = payload[length - 1] = '~';
    write_number(payload + PUBLISHER_AT, publisher);
    write_number(payload + SEQUENCE_AT, sequence);
}

static bool all_dots(const char *data, size_t length) {
    /* Each byte equals the next, and the first is a dot. */
    return length == 0 || (data[0] == '.' && memcmp(data, data + 1, length - 1) == 0);
}

bool payload_read(const char *payload, size_t length, size_t expected_length, uint32_t *publisher,
                  uint32_t *sequence) {
    return length == expected_length && length >= PAYLOAD_MINIMUM && payload[0] == '~' &&
           payload[length - 1] == '~' && payload[PUBLISHER_AT + DIGITS] == '.' &&
           all_dots(payload + FILL_AT, length - 1 - FILL_AT) &&
           read_number(payload + PUBLISHER_AT, publisher) && read_number(payload + SEQUENCE_AT, sequence);
}
