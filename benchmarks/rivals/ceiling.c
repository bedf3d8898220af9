/*
 * The yardstick: a server that does what docs/reference/protocol.md asks for subscribing and publishing, and nothing else. It
 * reads, makes each delivery once for all who get it, acknowledges, and writes once a connection and turn of its loop.
 * So what it gets is the most that a server of one thread can get that makes one system call a connection, and what
 * the generator takes is at least as much.
 *
 * It is no rival: it trusts its client. Topics are matched as they are, levels mean nothing; ids are not returned;
 * frames are whole, below 64 KiB, and have their fields in the order in which the generator writes them.
 *
 *     ceiling PORT
 */
#define _GNU_SOURCE

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "../generator/buffer.h"

enum { MAX_CLIENTS = 4096, MAX_EVENTS = 256, READ_BYTES = 64 * 1024, TOPIC_LISTS = 1024 };

/* The answer to the one key that the generator sends. */
static const char ACCEPTED[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                               "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/* What comes before the topic, and between it and the message. */
static const char SUBSCRIBE[] = "{\"type\":\"subscribe\",\"topic\":\"";
static const char PUBLISH[] = "{\"type\":\"publish\",\"topic\":\"";
static const char MESSAGE[] = "\",\"message\":";

struct client {
    int fd;
    bool is_open;
    bool is_due; /* is in `due` */
    /*
     * What it is to be written: `out`, or, where that is empty, the deliveries of this turn from here to there. As
     * long as one client's deliveries are next to each other nothing is copied.
     */
    size_t from, to;
    struct buffer out;
    struct buffer rest; /* the beginning of a frame */
};

struct topic {
    struct topic *next;
    char *name;
    size_t length;
    struct client **subscribers;
    size_t count;
};

static struct client clients[MAX_CLIENTS]; /* by file descriptor */
static struct client *due[MAX_CLIENTS];    /* who is to be written to at the end of the turn */
static size_t due_count;
static struct topic *topics[TOPIC_LISTS]; /* by hash; none is ever forgotten */
static struct buffer deliveries;          /* the frames of this turn */
static char now[] = "1970-01-01T00:00:00.000Z";
static int epoll;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void look_at_clock(void) {
    enum { SECOND_ENDS = 20 };
    static time_t second;
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    if (time.tv_sec != second) {
        second = time.tv_sec;
        strftime(now, sizeof now, "%FT%T.000Z", gmtime(&second));
    }
    long milliseconds = time.tv_nsec / 1000000;
    for (int digit = SECOND_ENDS + 2; digit >= SECOND_ENDS; digit--, milliseconds /= 10)
        now[digit] = (char)('0' + milliseconds % 10);
}

/* Topics */

static struct topic *topic_named(const char *name, size_t length) {
    uint32_t hash = 2166136261; /* FNV-1a */
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ (unsigned char)name[i]) * 16777619;
    struct topic **place = &topics[hash % TOPIC_LISTS];
    while (*place && !((*place)->length == length && memcmp((*place)->name, name, length) == 0))
        place = &(*place)->next;
    if (!*place) {
        *place = calloc(1, sizeof **place);
        (*place)->name = strndup(name, length);
        (*place)->length = length;
    }
    return *place;
}

static void subscribe(struct client *client, struct topic *topic) {
    for (size_t i = 0; i < topic->count; i++)
        if (topic->subscribers[i] == client)
            return;
    topic->subscribers = realloc(topic->subscribers, (topic->count + 1) * sizeof *topic->subscribers);
    topic->subscribers[topic->count++] = client;
}

static void unsubscribe(struct client *client) {
    for (size_t list = 0; list < TOPIC_LISTS; list++)
        for (struct topic *topic = topics[list]; topic; topic = topic->next)
            for (size_t i = 0; i < topic->count; i++)
                if (topic->subscribers[i] == client)
                    topic->subscribers[i] = topic->subscribers[--topic->count];
}

/* Writing */

static void add_frame(struct buffer *out, const struct buffer *text) {
    unsigned char head[4] = {0x81, (unsigned char)text->length};
    size_t head_length = 2;
    if (text->length > 125) {
        head[1] = 126;
        head[2] = (unsigned char)(text->length >> 8);
        head[3] = (unsigned char)text->length;
        head_length = 4;
    }
    buffer_add(out, head, head_length);
    buffer_add(out, text->data, text->length);
}

static void add_to_due(struct client *client) {
    if (!client->is_due) {
        client->is_due = true;
        due[due_count++] = client;
    }
}

/* Copy what it has of this turn's deliveries: something else is to come behind them, or the turn ends. */
static void keep(struct client *client) {
    buffer_add(&client->out, deliveries.data + client->from, client->to - client->from);
    client->from = client->to = 0;
}

static void give(struct client *client, size_t from, size_t to) {
    if (client->out.length || (client->to && client->to != from)) {
        keep(client);
        buffer_add(&client->out, deliveries.data + from, to - from);
    } else {
        if (!client->to)
            client->from = from;
        client->to = to;
    }
    add_to_due(client);
}

static void deliver(const struct topic *topic, const char *message, size_t length) {
    static struct buffer text;
    text.length = 0;
    buffer_text(&text, "{\"type\":\"publish\",\"timestamp\":\"");
    buffer_text(&text, now);
    buffer_text(&text, "\",\"topic\":\"");
    buffer_add(&text, topic->name, topic->length);
    buffer_text(&text, MESSAGE);
    buffer_add(&text, message, length);
    buffer_text(&text, ",\"context\":\"");
    buffer_add(&text, topic->name, topic->length);
    buffer_text(&text, "\"}");
    size_t from = deliveries.length;
    add_frame(&deliveries, &text);
    for (size_t i = 0; i < topic->count; i++)
        give(topic->subscribers[i], from, deliveries.length);
}

static void acknowledge(struct client *client, const char *action, const struct topic *topic) {
    static struct buffer text;
    text.length = 0;
    buffer_text(&text, "{\"type\":\"ack\",\"action\":\"");
    buffer_text(&text, action);
    buffer_text(&text, "\",\"timestamp\":\"");
    buffer_text(&text, now);
    buffer_text(&text, "\",\"topic\":\"");
    buffer_add(&text, topic->name, topic->length);
    buffer_text(&text, "\"}");
    keep(client);
    add_frame(&client->out, &text);
    add_to_due(client);
}

/* Write what there is, in one call; whether all of it was taken. */
static bool flush(struct client *client) {
    struct buffer *out = &client->out;
    bool has_out = out->length > 0;
    const char *data = has_out ? out->data : deliveries.data + client->from;
    size_t length = has_out ? out->length : client->to - client->from;
    ssize_t written = send(client->fd, data, length, MSG_NOSIGNAL);
    if (written < 0)
        written = errno == EAGAIN ? 0 : (ssize_t)length; /* where it is gone, the next read tells */
    if (has_out) {
        buffer_drop(out, (size_t)written);
    } else {
        client->from += (size_t)written;
        keep(client);
    }
    return out->length == 0;
}

static void flush_all(void) {
    size_t left = 0;
    for (size_t i = 0; i < due_count; i++) {
        due[i]->is_due = due[i]->is_open && !flush(due[i]);
        if (due[i]->is_due)
            due[left++] = due[i];
    }
    due_count = left;
    deliveries.length = 0;
}

/* Reading */

static void handle(struct client *client, const char *text, size_t length) {
    bool is_publish = memcmp(text, PUBLISH, sizeof PUBLISH - 1) == 0;
    const char *name = text + (is_publish ? sizeof PUBLISH : sizeof SUBSCRIBE) - 1;
    const char *name_end = memchr(name, '"', (size_t)(text + length - name));
    struct topic *topic = topic_named(name, (size_t)(name_end - name));
    if (is_publish) {
        const char *message = name_end + sizeof MESSAGE - 1;
        deliver(topic, message, (size_t)(text + length - 1 - message));
        acknowledge(client, "publish", topic);
    } else {
        subscribe(client, topic);
        acknowledge(client, "subscribe", topic);
    }
}

static void unmask(char *payload, size_t length, const char *mask) {
    uint32_t key, word;
    size_t at = 0;
    memcpy(&key, mask, sizeof key);
    for (; at + sizeof word <= length; at += sizeof word) {
        memcpy(&word, payload + at, sizeof word);
        word ^= key;
        memcpy(payload + at, &word, sizeof word);
    }
    for (; at < length; at++)
        payload[at] ^= mask[at & 3];
}

/* Handle a frame and return its length; 0: it is not all there. */
static size_t read_frame(struct client *client, char *data, size_t length) {
    if (length < 4)
        return 0;
    size_t size = (unsigned char)data[1] & 127, at = 2;
    if (size == 126) {
        size = (size_t)(unsigned char)data[2] << 8 | (unsigned char)data[3];
        at = 4;
    }
    if (length < at + 4 + size)
        return 0;
    char *payload = data + at + 4;
    unmask(payload, size, data + at);
    handle(client, payload, size);
    return at + 4 + size;
}

static void leave(struct client *client) {
    unsubscribe(client);
    close(client->fd);
    buffer_free(&client->out);
    buffer_free(&client->rest);
    /* Who is still in `due` stays marked, so that whoever gets this place next is not entered twice. */
    *client = (struct client){.is_due = client->is_due};
}

static void receive(struct client *client) {
    static struct buffer in;
    in.length = 0;
    buffer_add(&in, client->rest.data, client->rest.length);
    client->rest.length = 0;
    ssize_t received = recv(client->fd, buffer_room(&in, READ_BYTES), READ_BYTES, 0);
    if (received <= 0) {
        leave(client);
        return;
    }
    in.length += (size_t)received;
    size_t at = 0, size;
    if (!client->is_open) {
        char *end = memmem(in.data, in.length, "\r\n\r\n", 4);
        if (end) {
            at = (size_t)(end - in.data) + 4;
            client->is_open = true;
            buffer_add(&client->out, ACCEPTED, sizeof ACCEPTED - 1);
            add_to_due(client);
        }
    }
    if (client->is_open)
        while ((size = read_frame(client, in.data + at, in.length - at)))
            at += size;
    buffer_add(&client->rest, in.data + at, in.length - at);
}

static void enter(int listening) {
    int fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return;
    if (fd >= MAX_CLIENTS) {
        close(fd);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    clients[fd].fd = fd;
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0)
        fail("epoll_ctl");
}

int main(int count, char **words) {
    if (count != 2) {
        fputs("usage: ceiling PORT\n", stderr);
        return 2;
    }
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons((uint16_t)atoi(words[1])),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    int listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(listening, (struct sockaddr *)&address, sizeof address) != 0 || listen(listening, 1024) != 0)
        fail("listen");
    epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listening};
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listening, &event) != 0)
        fail("epoll");
    for (;;) {
        struct epoll_event events[MAX_EVENTS];
        /* Who did not take all is tried again each turn: the loop does not wait then. */
        int ready = epoll_wait(epoll, events, MAX_EVENTS, due_count ? 0 : -1);
        look_at_clock();
        for (int i = 0; i < ready; i++)
            if (events[i].data.fd == listening)
                enter(listening);
            else
                receive(&clients[events[i].data.fd]);
        flush_all();
    }
}
