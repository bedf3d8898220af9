/*
 * The protocol of docs/reference/protocol.md. Also spoken by those rivals that have none of their own: ws, uWebSockets
 * and the Channels consumers are libraries, and what a server says with them is up to its author.
 */
#define _GNU_SOURCE /* memmem */

#include "../adapter.h"

#include <string.h>

static void subscribe(struct buffer *out, const char *topic, bool below) {
    (void)below; /* always so */
    buffer_format(out, "{\"type\":\"subscribe\",\"topic\":\"%s\"}", topic);
}

static void follow(struct buffer *out, const char *topic) {
    buffer_format(out, "{\"type\":\"subscribe\",\"topic\":\"%s\",\"last\":0}", topic);
}

static void resume(struct buffer *out, const char *cursor, const char *const *topics, unsigned count) {
    buffer_format(out, "{\"type\":\"resume\",\"since\":\"%s\",\"topics\":[", cursor);
    for (unsigned i = 0; i < count; i++)
        buffer_format(out, "%s\"%s\"", i ? "," : "", topics[i]);
    buffer_text(out, "]}");
}

static void publish(struct buffer *out, const char *topic, const char *payload, size_t length) {
    buffer_format(out, "{\"type\":\"publish\",\"topic\":\"%s\",\"message\":\"", topic);
    buffer_add(out, payload, length);
    buffer_text(out, "\"}");
}

static void read_cursor(struct peer *peer, const char *data, size_t length) {
    static const char NAME[] = "\"cursor\":\"";
    const char *start = memmem(data, length, NAME, sizeof NAME - 1);
    if (!start)
        return;
    start += sizeof NAME - 1;
    const char *end = memchr(start, '"', length - (size_t)(start - data));
    if (end)
        peer->listener->cursor(peer, start, (size_t)(end - start));
}

static unsigned count(const char *data, size_t length, const char *text) {
    unsigned found = 0;
    const char *end = data + length, *at = data;
    while ((at = memmem(at, (size_t)(end - at), text, strlen(text)))) {
        found++;
        at += strlen(text);
    }
    return found;
}

static void read_ack(struct peer *peer, const char *data, size_t length) {
    if (contains(data, length, "\"action\":\"publish\"")) {
        peer->listener->acknowledged(peer);
        return;
    }
    read_cursor(peer, data, length);
    if (contains(data, length, "\"action\":\"resume\""))
        peer->listener->resumed(peer, count(data, length, "\"recovered\":true"));
    else if (contains(data, length, "\"subscribe\""))
        peer->listener->subscribed(peer);
}

static size_t read_message(struct peer *peer, const char *data, size_t length) {
    const char *payload;
    size_t payload_length;
    if (find_payload(data, length, &payload, &payload_length))
        peer->listener->delivered(peer, payload, payload_length);
    else if (!contains(data, length, "\"ack\""))
        peer->listener->failed(peer, "neither a delivery nor an ack", data, length);
    else
        read_ack(peer, data, length);
    return length;
}

const struct adapter dwsps_adapter = {
    .name = "dwsps",
    .opcode = 1,
    .subscribe = subscribe,
    .follow = follow,
    .resume = resume,
    .publish = publish,
    .read = read_message,
};
