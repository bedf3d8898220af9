/*
 * The protocol of docs/reference/protocol.md. Also spoken by those rivals that have none of their own: ws, uWebSockets
 * and the Channels consumers are libraries, and what a server says with them is up to its author.
 */
#include "../adapter.h"

static void subscribe(struct buffer *out, const char *topic, bool below) {
    (void)below; /* always so */
    buffer_format(out, "{\"type\":\"subscribe\",\"topic\":\"%s\"}", topic);
}

static void publish(struct buffer *out, const char *topic, const char *payload, size_t length) {
    buffer_format(out, "{\"type\":\"publish\",\"topic\":\"%s\",\"message\":\"", topic);
    buffer_add(out, payload, length);
    buffer_text(out, "\"}");
}

static size_t read_message(struct peer *peer, const char *data, size_t length) {
    const char *payload;
    size_t payload_length;
    if (find_payload(data, length, &payload, &payload_length))
        peer->listener->delivered(peer, payload, payload_length);
    else if (!contains(data, length, "\"ack\""))
        peer->listener->failed(peer, "neither a delivery nor an ack", data, length);
    else if (contains(data, length, "\"subscribe\""))
        peer->listener->subscribed(peer);
    return length;
}

const struct adapter dwsps_adapter = {
    .name = "dwsps",
    .opcode = 1,
    .subscribe = subscribe,
    .publish = publish,
    .read = read_message,
};
