/*
 * What is published: "~pppppppp.ssssssss......~", of a length that all payloads of a run share. p is the number of
 * the publisher and s its sequence number, each as eight hexadecimal digits; dots fill the rest.
 */
#ifndef PAYLOAD_H
#define PAYLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PAYLOAD_MINIMUM = 20 };

/* Write a payload of `length` bytes, at least PAYLOAD_MINIMUM. */
void payload_write(char *payload, size_t length, uint32_t publisher, uint32_t sequence);

/* Read it; false: it is not, to the last byte, what was written. */
bool payload_read(const char *payload, size_t length, size_t expected_length, uint32_t *publisher,
                  uint32_t *sequence);

#endif
