/*
 * The contract of an adapter: what the generator has to know of one protocol. Each is a file in adapters/.
 *
 * A published message is a JSON string (see payload.h), the same bytes in every protocol.
 */
#ifndef ADAPTER_H
#define ADAPTER_H

#include <stdbool.h>
#include <stddef.h>

#include "buffer.h"

struct peer;

/* What an adapter tells of the bytes that it reads. */
struct listener {
    /* The greeting was answered: the server takes subscriptions. */
    void (*ready)(struct peer *peer);
    /* One more subscription has taken effect. */
    void (*subscribed)(struct peer *peer);
    /* A publish was acknowledged. */
    void (*acknowledged)(struct peer *peer);
    /* Everything up to this cursor was delivered on this connection. */
    void (*cursor)(struct peer *peer, const char *cursor, size_t length);
    /* A resume was answered: `recovered` of its topics miss nothing. */
    void (*resumed)(struct peer *peer, unsigned recovered);
    /* A message was delivered: `payload` is the string within its quotes. */
    void (*delivered)(struct peer *peer, const char *payload, size_t length);
    /* The protocol asks for this answer, as a websocket message of its own. */
    void (*answer)(struct peer *peer, const char *message, size_t length);
    /* The server said no, or what the adapter does not understand. */
    void (*failed)(struct peer *peer, const char *why, const char *data, size_t length);
};

/* One end of a connection, as an adapter sees it. */
struct peer {
    const struct listener *listener;
    /* Whether `listener->ready` was called, or there is no greeting. Its owner keeps it. */
    bool is_ready;
    /* For an adapter that has to count: topics that a resume asks for, and those that have all they missed. */
    unsigned asked, answered;
};

struct adapter {
    const char *name;
    /* The websocket opcode of what it sends: 1 for text, 2 for binary. */
    int opcode;
    /* Whether the websocket carries a stream of bytes, rather than a message a frame. */
    bool stream;
    /* Sent once the websocket is open, and answered by what makes `read` tell `ready`; NULL: ready at once. */
    const char *greeting;
    /* NULL: the adapter only follows. Add the request to subscribe to a topic; `below`: and to all topics below it, of which there are some. */
    void (*subscribe)(struct buffer *out, const char *topic, bool below);
    /* Do the same, and ask for cursors; NULL: the protocol has no recovery. */
    void (*follow)(struct buffer *out, const char *topic);
    /* Add the request for what was published below these topics since the cursor, and for what comes then. */
    void (*resume)(struct buffer *out, const char *cursor, const char *const *topics, unsigned count);
    /* Add the request to publish `payload`, a string without its quotes, to a topic and to those above it. */
    void (*publish)(struct buffer *out, const char *topic, const char *payload, size_t length);
    /*
     * Read what has come: one whole message, or, of a stream, all that is there. Return how much of it was
     * read; of a message all.
     */
    size_t (*read)(struct peer *peer, const char *data, size_t length);
};

extern const struct adapter dwsps_adapter;
extern const struct adapter fastapi_pubsub_adapter;
extern const struct adapter jetstream_adapter;
extern const struct adapter nats_adapter;
extern const struct adapter socketio_adapter;

/* The adapter of that name; NULL: there is none. */
const struct adapter *adapter_named(const char *name);

/* Whether `text` is somewhere in the data. */
bool contains(const char *data, size_t length, const char *text);

/*
 * Find the payload in a message of JSON. No topic, key or id holds the '~' that it begins with, nor does the
 * payload hold a quote or an escape. False: there is none.
 */
bool find_payload(const char *data, size_t length, const char **payload, size_t *payload_length);

#endif
