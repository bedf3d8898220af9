/*
 * The protocol of nats-server: lines that end in CR LF, and payloads of the length that their line told. On a
 * websocket they are a stream: a frame may hold many, and end in the middle of one.
 */
#define _GNU_SOURCE /* memmem */

#include "../adapter.h"

#include <string.h>

static void subscribe(struct buffer *out, const char *topic, bool below) {
    /* The server ignores a second subscription of the same name. */
    static unsigned name;
    /* "news.>" is all below "news" and not "news" itself, to which nothing is published where there is a below. */
    buffer_format(out, "SUB %s%s %u\r\nPING\r\n", topic, below ? ".>" : "", ++name);
}

static void publish(struct buffer *out, const char *topic, const char *payload, size_t length) {
    buffer_format(out, "PUB %s %zu\r\n\"", topic, length + 2);
    buffer_add(out, payload, length);
    buffer_text(out, "\"\r\n");
}

static bool begins(const char *data, const char *end, const char *text) {
    size_t length = strlen(text);
    return (size_t)(end - data) >= length && memcmp(data, text, length) == 0;
}

/* The number at the end of "MSG topic sid number". */
static size_t last_number(const char *line, const char *end) {
    const char *digit = end;
    while (digit > line && digit[-1] >= '0' && digit[-1] <= '9')
        digit--;
    size_t number = 0;
    for (; digit < end; digit++)
        number = number * 10 + (size_t)(*digit - '0');
    return number;
}

static size_t read_stream(struct peer *peer, const char *data, size_t length) {
    const struct listener *listener = peer->listener;
    const char *at = data, *end = data + length;
    while (at < end) {
        const char *line_end = memmem(at, (size_t)(end - at), "\r\n", 2);
        if (!line_end)
            break;
        const char *next = line_end + 2;
        if (begins(at, line_end, "MSG ")) {
            size_t size = last_number(at, line_end);
            if ((size_t)(end - next) < size + 2)
                break;
            if (size < 2 || next[0] != '"' || next[size - 1] != '"')
                listener->failed(peer, "not a JSON string", next, size);
            else
                listener->delivered(peer, next + 1, size - 2);
            next += size + 2;
        } else if (begins(at, line_end, "INFO ")) {
            /* Comes first of all, and again when a cluster changes; nothing waits for it. */
        } else if (begins(at, line_end, "PING")) {
            listener->answer(peer, "PONG\r\n", 6);
        } else if (begins(at, line_end, "PONG")) {
            if (peer->is_ready)
                listener->subscribed(peer);
            else
                listener->ready(peer);
        } else {
            listener->failed(peer, "an unknown line", at, (size_t)(line_end - at));
        }
        at = next;
    }
    return (size_t)(at - data);
}

const struct adapter nats_adapter = {
    .name = "nats",
    .opcode = 2,
    .stream = true,
    .greeting = "CONNECT {\"verbose\":false,\"pedantic\":false,\"protocol\":1}\r\nPING\r\n",
    .subscribe = subscribe,
    .publish = publish,
    .read = read_stream,
};
