#define _GNU_SOURCE

#include "engine.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "websocket.h"

enum {
    /* So many handshakes at once at most: Daphne's listen queue holds 50, and what does not fit waits for a second. */
    MAX_OPENING = 48,
    MAX_EVENTS = 256,
    READ_BYTES = 128 * 1024,
};

static const int64_t MILLISECOND = 1000000;
static const int64_t OPENING_PATIENCE = 20000 * MILLISECOND;

_Noreturn void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fflush(stdout);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

int64_t clock_now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static void watch(struct connection *connection, int operation) {
    struct epoll_event event = {
        .events = EPOLLIN | (connection->waits_to_write ? EPOLLOUT : 0),
        .data.ptr = connection,
    };
    if (epoll_ctl(connection->engine->epoll, operation, connection->fd, &event) != 0)
        die("epoll_ctl: %s", strerror(errno));
}

void connection_flush(struct connection *connection) {
    struct buffer *out = &connection->out;
    bool waits = false;
    if (out->length) {
        ssize_t written = send(connection->fd, out->data, out->length, MSG_NOSIGNAL);
        if (written < 0 && errno != EAGAIN)
            die("the server cut a connection off: %s", strerror(errno));
        if (written > 0)
            buffer_drop(out, (size_t)written);
        waits = out->length > 0;
    }
    if (waits != connection->waits_to_write) {
        connection->waits_to_write = waits;
        watch(connection, EPOLL_CTL_MOD);
    }
}

void connection_queue(struct connection *connection, const char *message, size_t length) {
    websocket_frame(&connection->out, (enum opcode)connection->engine->adapter->opcode, message, length);
}

void connection_send(struct connection *connection, const char *message, size_t length) {
    connection_queue(connection, message, length);
    connection_flush(connection);
}

void connection_cut(struct connection *connection) {
    if (connection->state == CLOSED)
        return;
    close(connection->fd);
    connection->state = CLOSED;
    buffer_free(&connection->out);
    buffer_free(&connection->rest);
    buffer_free(&connection->stream);
}

/* Opening: connect, upgrade, greet, subscribe */

static void begin(struct connection *connection) {
    struct engine *engine = connection->engine;
    int port = connection->port ? connection->port : engine->port;
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons((uint16_t)port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    connection->started = clock_now();
    connection->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (connection->fd < 0)
        die("socket: %s", strerror(errno));
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    if (connect(connection->fd, (struct sockaddr *)&address, sizeof address) != 0 && errno != EINPROGRESS)
        die("connect: %s", strerror(errno));
    connection->state = UPGRADING;
    connection->peer.is_ready = engine->adapter->greeting == NULL;
    connection->subscribed = 0;
    connection->waits_to_write = true;
    watch(connection, EPOLL_CTL_ADD);
    websocket_request(&connection->out, port, engine->path);
}

static void finish(struct connection *connection) {
    connection->state = OPEN;
    connection->engine->opened++;
}

static void resume(struct connection *connection) {
    static struct buffer message;
    const char *topics[connection->subscription_count];
    for (unsigned i = 0; i < connection->subscription_count; i++)
        topics[i] = connection->subscriptions[i].topic;
    connection->state = RESUMING;
    connection->peer.asked = connection->subscription_count;
    connection->peer.answered = 0;
    message.length = 0;
    connection->engine->adapter->resume(&message, connection->cursor, topics, connection->subscription_count);
    connection_send(connection, message.data, message.length);
}

static void subscribe(struct connection *connection) {
    static struct buffer message;
    const struct adapter *adapter = connection->engine->adapter;
    if (connection->engine->subscribing == RESUME && connection->subscription_count) {
        resume(connection);
        return;
    }
    connection->state = SUBSCRIBING;
    for (unsigned i = 0; i < connection->subscription_count; i++) {
        message.length = 0;
        if (connection->engine->subscribing == FOLLOW)
            adapter->follow(&message, connection->subscriptions[i].topic);
        else
            adapter->subscribe(&message, connection->subscriptions[i].topic, connection->subscriptions[i].below);
        websocket_frame(&connection->out, (enum opcode)adapter->opcode, message.data, message.length);
    }
    connection_flush(connection);
    if (!connection->subscription_count)
        finish(connection);
}

static void greet(struct connection *connection) {
    const char *greeting = connection->engine->adapter->greeting;
    if (greeting) {
        connection->state = GREETING;
        connection_send(connection, greeting, strlen(greeting));
    } else {
        subscribe(connection);
    }
}

/* What the adapter reads */

static struct connection *connection_of(struct peer *peer) {
    return (struct connection *)peer;
}

static void on_ready(struct peer *peer) {
    peer->is_ready = true;
    subscribe(connection_of(peer));
}

static void on_subscribed(struct peer *peer) {
    struct connection *connection = connection_of(peer);
    if (connection->state != SUBSCRIBING)
        die("the server acknowledged a subscription twice");
    if (++connection->subscribed == connection->subscription_count)
        finish(connection);
}

static void on_acknowledged(struct peer *peer) {
    struct connection *connection = connection_of(peer);
    if (connection->engine->acknowledged)
        connection->engine->acknowledged(connection);
}

static void on_cursor(struct peer *peer, const char *cursor, size_t length) {
    struct connection *connection = connection_of(peer);
    if (length > MAX_CURSOR)
        die("the server sent a cursor of %zu characters", length);
    memcpy(connection->cursor, cursor, length);
    connection->cursor[length] = 0;
}

static void on_resumed(struct peer *peer, unsigned recovered) {
    struct connection *connection = connection_of(peer);
    if (connection->state != RESUMING)
        die("the server acknowledged a resume that nobody has sent");
    connection->recovered = recovered;
    finish(connection);
}

static void on_delivered(struct peer *peer, const char *payload, size_t length) {
    struct connection *connection = connection_of(peer);
    if (!connection->engine->delivered)
        die("the server delivered what nobody has published");
    connection->engine->delivered(connection, payload, length);
}

static void on_answer(struct peer *peer, const char *message, size_t length) {
    connection_send(connection_of(peer), message, length);
}

static void on_failed(struct peer *peer, const char *why, const char *data, size_t length) {
    (void)peer;
    die("the server sent %s: %.*s", why, (int)(length < 300 ? length : 300), data);
}

static const struct listener LISTENER = {
    .ready = on_ready,
    .subscribed = on_subscribed,
    .acknowledged = on_acknowledged,
    .cursor = on_cursor,
    .resumed = on_resumed,
    .delivered = on_delivered,
    .answer = on_answer,
    .failed = on_failed,
};

/* Reading */

static void read_close(const struct frame *frame) {
    if (frame->length < 2)
        die("the server closed a connection, without a code");
    const unsigned char *code = (const unsigned char *)frame->payload;
    die("the server closed a connection: %d %.*s", code[0] << 8 | code[1], (int)frame->length - 2,
        frame->payload + 2);
}

static void read_frame(struct connection *connection, const struct frame *frame) {
    const struct adapter *adapter = connection->engine->adapter;
    switch (frame->opcode) {
    case OPCODE_PING:
        websocket_frame(&connection->out, OPCODE_PONG, frame->payload, frame->length);
        connection_flush(connection);
        return;
    case OPCODE_PONG:
        return;
    case OPCODE_CLOSE:
        read_close(frame);
        return;
    default:
        break;
    }
    if (adapter->stream)
        buffer_add(&connection->stream, frame->payload, frame->length);
    else if (!frame->final || frame->opcode == OPCODE_CONTINUATION)
        die("the server sent a message in fragments");
    else
        adapter->read(&connection->peer, frame->payload, frame->length);
}

/* Read whole frames, and return how much of the data they were. */
static size_t read_frames(struct connection *connection, const char *data, size_t length) {
    size_t at = 0;
    while (at < length) {
        struct frame frame;
        ssize_t size = websocket_read(data + at, length - at, &frame);
        if (size < 0)
            die("the server sent what is no frame");
        if (size == 0)
            break;
        at += (size_t)size;
        read_frame(connection, &frame);
    }
    struct buffer *stream = &connection->stream;
    if (stream->length)
        buffer_drop(stream, connection->engine->adapter->read(&connection->peer, stream->data, stream->length));
    return at;
}

static void receive(struct connection *connection) {
    static struct buffer input;
    input.length = 0;
    buffer_add(&input, connection->rest.data, connection->rest.length);
    connection->rest.length = 0;
    ssize_t received = recv(connection->fd, buffer_room(&input, READ_BYTES), READ_BYTES, 0);
    if (received < 0 && errno == EAGAIN)
        received = 0;
    else if (received <= 0)
        die("the server cut a connection off%s%s", received ? ": " : "", received ? strerror(errno) : "");
    connection->engine->now = clock_now();
    connection->engine->reads++;
    input.length += (size_t)received;
    size_t at = 0;
    if (connection->state == UPGRADING) {
        ssize_t head = websocket_accepted(input.data, input.length);
        if (head < 0)
            die("the server refused a connection: %.*s", (int)(input.length < 300 ? input.length : 300),
                input.data);
        if (head > 0) {
            at = (size_t)head;
            greet(connection);
        }
    }
    if (connection->state != UPGRADING)
        at += read_frames(connection, input.data + at, input.length - at);
    buffer_add(&connection->rest, input.data + at, input.length - at);
}

/* The loop */

void engine_start(struct engine *engine) {
    engine->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (engine->epoll < 0)
        die("epoll_create1: %s", strerror(errno));
}

bool engine_poll(struct engine *engine, int64_t until) {
    struct epoll_event events[MAX_EVENTS];
    int count = epoll_wait(engine->epoll, events, MAX_EVENTS, 0);
    if (count == 0) {
        int64_t began = clock_now(), now = began;
        while (count == 0 && now < until) {
            int64_t left = (until - now + MILLISECOND - 1) / MILLISECOND;
            count = epoll_wait(engine->epoll, events, MAX_EVENTS, now - began < engine->spin ? 0 : (int)left);
            now = clock_now();
        }
        engine->idle += now - began;
    }
    if (count < 0 && errno != EINTR)
        die("epoll_wait: %s", strerror(errno));
    for (int i = 0; i < count; i++) {
        struct connection *connection = events[i].data.ptr;
        if (events[i].events & EPOLLOUT)
            connection_flush(connection);
        if (events[i].events & ~(uint32_t)EPOLLOUT)
            receive(connection);
    }
    return count > 0;
}

void engine_open(struct engine *engine, struct connection *connections, size_t count) {
    size_t begun = 0;
    int64_t heard = clock_now();
    engine->opened = 0;
    while (engine->opened < count) {
        for (; begun < count && begun - engine->opened < MAX_OPENING; begun++) {
            connections[begun].engine = engine;
            connections[begun].peer.listener = &LISTENER;
            begin(&connections[begun]);
        }
        if (engine_poll(engine, clock_now() + 100 * MILLISECOND))
            heard = clock_now();
        else if (clock_now() - heard > OPENING_PATIENCE)
            die("%zu of %zu connections were opened, then the server fell silent", engine->opened, count);
    }
}
