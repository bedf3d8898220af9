/* Many websocket connections to one server, in one thread. */
#ifndef ENGINE_H
#define ENGINE_H

#include <stdint.h>

#include "adapter.h"
#include "ledger.h"

struct subscription {
    const char *topic;
    bool below; /* whether there are topics below it */
};

enum { MAX_CURSOR = 128 };

struct connection {
    struct peer peer; /* first, so that a peer is a connection */
    struct engine *engine;
    int fd;
    enum { CLOSED, UPGRADING, GREETING, SUBSCRIBING, RESUMING, OPEN } state;
    int port;
    bool waits_to_write;
    int64_t started; /* when it was begun to be opened */
    const struct subscription *subscriptions;
    unsigned subscription_count;
    unsigned subscribed; /* how many have taken effect */
    char cursor[MAX_CURSOR + 1]; /* of the last ack that had one */
    unsigned recovered;          /* subscriptions that missed nothing, as the last resume's ack has it */
    struct buffer out;    /* to be written */
    struct buffer rest;   /* the beginning of a frame */
    struct buffer stream; /* what the adapter left of a stream */
    /* Of those that publishing.c receives by. */
    struct ledger ledger;
    uint32_t publisher;
};

struct engine {
    const struct adapter *adapter;
    int port;
    const char *path;
    /* Called for each message delivered. */
    void (*delivered)(struct connection *connection, const char *payload, size_t length);
    /* Called for each publish that is acknowledged; may be NULL. */
    void (*acknowledged)(struct connection *connection);
    void *load; /* the caller's own */
    /* How connections that are opened subscribe. */
    enum { PLAIN, FOLLOW, RESUME } subscribing;
    /*
     * How long to look for more before sleeping. A write to one that sleeps has to wake it at the server's expense,
     * which no server does for a client on another machine. It makes a difference of a tenth or so.
     */
    int64_t spin;
    int epoll;
    int64_t now;  /* when the bytes that are being read were received */
    int64_t idle; /* for how long there was nothing to do so far; all in nanoseconds */
    uint64_t reads; /* how often something was received */
    size_t opened;
};

int64_t clock_now(void);

void engine_start(struct engine *engine);

/* Open connections to their `port`, or that of the engine if that is 0, and subscribe them. Ends the process where one is refused, or nothing happens for long. */
void engine_open(struct engine *engine, struct connection *connections, size_t count);

/* Read what has come, waiting for it until then at most. Returns whether there was anything. */
bool engine_poll(struct engine *engine, int64_t until);

/* Add a message of the adapter's protocol to what is to be written. */
void connection_queue(struct connection *connection, const char *message, size_t length);

/* Write it. */
void connection_flush(struct connection *connection);

/* Do both. */
void connection_send(struct connection *connection, const char *message, size_t length);

/* Cut the connection, as a network does that fails. */
void connection_cut(struct connection *connection);

/* Say why to stderr and end the process with status 1. */
_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
