#define _GNU_SOURCE /* memmem, strncasecmp */

#include "websocket.h"

#include <stdint.h>
#include <string.h>
#include <strings.h>

/* The key and its answer of RFC 6455, section 1.3: one key for all, so that nothing has to be hashed. */
#define KEY "dGhlIHNhbXBsZSBub25jZQ=="
#define ANSWER "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

enum { MAX_HEAD = 8192 };

void websocket_request(struct buffer *out, int port, const char *path) {
    buffer_format(out,
                  "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                  "Sec-WebSocket-Key: " KEY "\r\nSec-WebSocket-Version: 13\r\n\r\n",
                  path, port);
}

ssize_t websocket_accepted(const char *data, size_t length) {
    static const char STATUS[] = "HTTP/1.1 101";
    const char *end = memmem(data, length, "\r\n\r\n", 4);
    if (!end)
        return length > MAX_HEAD ? -1 : 0;
    size_t head = (size_t)(end - data) + 4;
    bool accepted = head > sizeof STATUS && memcmp(data, STATUS, sizeof STATUS - 1) == 0 &&
                    memmem(data, head, ANSWER, sizeof ANSWER - 1);
    return accepted ? (ssize_t)head : -1;
}

static uint32_t next_mask(void) {
    static uint32_t state = 0x9e3779b9; /* xorshift: masks need not be secret here, only different */
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state;
}

void websocket_frame(struct buffer *out, enum opcode opcode, const char *payload, size_t length) {
    unsigned char *head = (unsigned char *)buffer_room(out, length + 14);
    unsigned char *at = head;
    *at++ = (unsigned char)(0x80 | opcode);
    if (length < 126) {
        *at++ = (unsigned char)(0x80 | length);
    } else if (length < 65536) {
        *at++ = 0x80 | 126;
        *at++ = (unsigned char)(length >> 8);
        *at++ = (unsigned char)length;
    } else {
        *at++ = 0x80 | 127;
        for (int shift = 56; shift >= 0; shift -= 8)
            *at++ = (unsigned char)((uint64_t)length >> shift);
    }
    unsigned char mask[4];
    uint32_t number = next_mask();
    memcpy(mask, &number, 4);
    memcpy(at, mask, 4);
    at += 4;
    for (size_t i = 0; i < length; i++)
        at[i] = (unsigned char)payload[i] ^ mask[i & 3];
    out->length += (size_t)(at - head) + length;
}

ssize_t websocket_read(const char *data, size_t length, struct frame *frame) {
    const unsigned char *byte = (const unsigned char *)data;
    if (length < 2)
        return 0;
    if (byte[0] & 0x70 || byte[1] & 0x80) /* no extension was asked for, and servers do not mask */
        return -1;
    size_t head = 2;
    uint64_t size = byte[1];
    if (size >= 126) {
        size_t bytes = size == 126 ? 2 : 8;
        head += bytes;
        if (length < head)
            return 0;
        size = 0;
        for (size_t i = 0; i < bytes; i++)
            size = size << 8 | byte[2 + i];
    }
    if (size > 1 << 30)
        return -1;
    if (length - head < size)
        return 0;
    frame->final = byte[0] & 0x80;
    frame->opcode = byte[0] & 15;
    frame->payload = data + head;
    frame->length = size;
    return (ssize_t)(head + size);
}
