/* RFC 6455 from the client's end, as far as a benchmark needs it. Knows no sockets. */
#ifndef WEBSOCKET_H
#define WEBSOCKET_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "buffer.h"

enum opcode {
    OPCODE_CONTINUATION = 0,
    OPCODE_TEXT = 1,
    OPCODE_BINARY = 2,
    OPCODE_CLOSE = 8,
    OPCODE_PING = 9,
    OPCODE_PONG = 10,
};

struct frame {
    bool final;
    enum opcode opcode;
    const char *payload;
    size_t length;
};

/* Add the request that opens a websocket. */
void websocket_request(struct buffer *out, int port, const char *path);

/* The length of the response that accepts it; 0: it is not all there; -1: it is something else. */
ssize_t websocket_accepted(const char *data, size_t length);

/* Add a frame, masked, as all that clients send. */
void websocket_frame(struct buffer *out, enum opcode opcode, const char *payload, size_t length);

/* Read a frame and return its length with the header; 0: it is not all there; -1: no server may send it. */
ssize_t websocket_read(const char *data, size_t length, struct frame *frame);

#endif
