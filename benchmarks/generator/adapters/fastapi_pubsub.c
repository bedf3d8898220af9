/*
 * fastapi-websocket-pubsub: calls and their results in JSON, both ways. A delivery is a call of the server to
 * the client, which has to answer it.
 */
#define _GNU_SOURCE /* memmem, memrchr */

#include "../adapter.h"

#include <string.h>

static void subscribe(struct buffer *out, const char *topic, bool below) {
    (void)below; /* topics are flat: the publisher names those above, too */
    buffer_format(out,
                  "{\"request\":{\"method\":\"subscribe\",\"arguments\":{\"topics\":[\"%s\"]},"
                  "\"call_id\":\"subscribe\"}}",
                  topic);
}

static void publish(struct buffer *out, const char *topic, const char *payload, size_t length) {
    buffer_text(out, "{\"request\":{\"method\":\"publish\",\"arguments\":{\"topics\":[");
    size_t levels_length = strlen(topic);
    for (;;) {
        buffer_format(out, "\"%.*s\"", (int)levels_length, topic);
        const char *dot = memrchr(topic, '.', levels_length);
        if (!dot)
            break;
        levels_length = (size_t)(dot - topic);
        buffer_text(out, ",");
    }
    buffer_text(out, "],\"data\":\"");
    buffer_add(out, payload, length);
    buffer_text(out, "\"},\"call_id\":\"publish\"}}");
}

/* The value of "call_id", within its quotes; NULL: there is none. */
static const char *call_id(const char *data, size_t length, size_t *id_length) {
    static const char KEY[] = "\"call_id\":";
    const char *end = data + length;
    const char *key = memmem(data, length, KEY, sizeof KEY - 1);
    if (!key)
        return NULL;
    const char *quote = memchr(key + sizeof KEY - 1, '"', (size_t)(end - key) - (sizeof KEY - 1));
    if (!quote)
        return NULL;
    const char *closing = memchr(quote + 1, '"', (size_t)(end - quote) - 1);
    if (!closing)
        return NULL;
    *id_length = (size_t)(closing - quote) - 1;
    return quote + 1;
}

static void answer(struct peer *peer, const char *id, size_t length) {
    static struct buffer message;
    message.length = 0;
    buffer_text(&message, "{\"response\":{\"result\":\"None\",\"result_type\":\"str\",\"call_id\":\"");
    buffer_add(&message, id, length);
    buffer_text(&message, "\"}}");
    peer->listener->answer(peer, message.data, message.length);
}

static size_t read_message(struct peer *peer, const char *data, size_t length) {
    const char *payload;
    size_t payload_length, id_length;
    if (find_payload(data, length, &payload, &payload_length)) {
        peer->listener->delivered(peer, payload, payload_length);
        const char *after = payload + payload_length;
        const char *id = call_id(after, (size_t)(data + length - after), &id_length);
        if (id)
            answer(peer, id, id_length);
        else
            peer->listener->failed(peer, "a call without an id", data, length);
        return length;
    }
    const char *id = call_id(data, length, &id_length);
    if (!id || !contains(data, length, "true"))
        peer->listener->failed(peer, "neither a delivery nor a good result", data, length);
    else if (id_length == 9 && memcmp(id, "subscribe", 9) == 0)
        peer->listener->subscribed(peer);
    return length;
}

const struct adapter fastapi_pubsub_adapter = {
    .name = "fastapi_pubsub",
    .opcode = 1,
    .subscribe = subscribe,
    .publish = publish,
    .read = read_message,
};
