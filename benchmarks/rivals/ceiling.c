/*
 * What the generator is held against: a server that does as little as a server can. It gives each subscriber what
 * was published, as it came, gathered and written once a turn of its loop. It knows one topic, checks nothing and
 * trusts its client; it is no rival, but what the generator can take is at least what it gets from this.
 *
 *     ceiling PORT
 */
#define _GNU_SOURCE

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../generator/buffer.h"

enum { MAX_CLIENTS = 4096, MAX_EVENTS = 256, READ_BYTES = 64 * 1024 };

/* The answer to the one key that the generator sends. */
static const char ACCEPTED[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                               "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
static const char ACK[] = "{\"type\":\"ack\",\"action\":\"subscribe\"}";

struct client {
    int fd;
    int open;
    int subscribed;
    struct buffer in, out;
};

static struct client clients[MAX_CLIENTS];
static struct client *subscribers[MAX_CLIENTS];
static int subscriber_count;
static int epoll;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void add_frame(struct buffer *out, const char *payload, size_t length) {
    unsigned char head[4] = {0x81, (unsigned char)length};
    size_t head_length = 2;
    if (length > 125) {
        head[1] = 126;
        head[2] = (unsigned char)(length >> 8);
        head[3] = (unsigned char)length;
        head_length = 4;
    }
    buffer_add(out, head, head_length);
    buffer_add(out, payload, length);
}

static void flush(struct client *client) {
    while (client->out.length) {
        ssize_t written = send(client->fd, client->out.data, client->out.length, MSG_NOSIGNAL);
        if (written < 0 && errno != EAGAIN)
            return; /* gone, which the next read tells */
        if (written > 0)
            buffer_drop(&client->out, (size_t)written);
    }
}

static void handle(struct client *client, const char *payload, size_t length) {
    static struct buffer frame;
    if (memmem(payload, length, "\"subscribe\"", 11)) {
        if (!client->subscribed)
            subscribers[subscriber_count++] = client;
        client->subscribed = 1;
        add_frame(&client->out, ACK, sizeof ACK - 1);
        flush(client);
        return;
    }
    frame.length = 0;
    add_frame(&frame, payload, length);
    for (int i = 0; i < subscriber_count; i++)
        buffer_add(&subscribers[i]->out, frame.data, frame.length);
}

/* Read a frame of up to 64 KiB and return its length; 0: it is not all there. */
static size_t read_frame(struct client *client, char *data, size_t length) {
    if (length < 6)
        return 0;
    size_t size = (unsigned char)data[1] & 127, at = 2;
    if (size == 126) {
        size = (size_t)(unsigned char)data[2] << 8 | (unsigned char)data[3];
        at = 4;
    }
    if (length < at + 4 + size)
        return 0;
    char *mask = data + at, *payload = mask + 4;
    for (size_t i = 0; i < size; i++)
        payload[i] ^= mask[i & 3];
    handle(client, payload, size);
    return at + 4 + size;
}

static void leave(struct client *client) {
    for (int i = 0; i < subscriber_count; i++)
        if (subscribers[i] == client)
            subscribers[i--] = subscribers[--subscriber_count];
    close(client->fd);
    buffer_free(&client->in);
    buffer_free(&client->out);
    *client = (struct client){0};
}

static void receive(struct client *client) {
    struct buffer *in = &client->in;
    ssize_t received = recv(client->fd, buffer_room(in, READ_BYTES), READ_BYTES, 0);
    if (received <= 0) {
        leave(client);
        return;
    }
    in->length += (size_t)received;
    size_t at = 0, size;
    if (!client->open) {
        char *end = memmem(in->data, in->length, "\r\n\r\n", 4);
        if (!end)
            return;
        at = (size_t)(end - in->data) + 4;
        client->open = 1;
        buffer_add(&client->out, ACCEPTED, sizeof ACCEPTED - 1);
        flush(client);
    }
    while ((size = read_frame(client, in->data + at, in->length - at)))
        at += size;
    buffer_drop(in, at);
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
        int ready = epoll_wait(epoll, events, MAX_EVENTS, -1);
        for (int i = 0; i < ready; i++)
            if (events[i].data.fd == listening)
                enter(listening);
            else
                receive(&clients[events[i].data.fd]);
        for (int i = 0; i < subscriber_count; i++)
            flush(subscribers[i]);
    }
}
