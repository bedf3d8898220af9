/*
 * socket.io 4 over Engine.IO 4, on a websocket from the start: packets are text, and begin with Engine.IO's type
 * (0 open, 2 ping, 3 pong, 4 message), a message's with Socket.IO's (0 connect, 2 event, 3 ack).
 */
#include "../adapter.h"

#include <string.h>

static void subscribe(struct buffer *out, const char *topic, bool below) {
    (void)below; /* the server emits to the rooms above, too */
    /* The number asks for an ack; nothing here needs to know which. */
    buffer_format(out, "420[\"subscribe\",\"%s\"]", topic);
}

static void publish(struct buffer *out, const char *topic, const char *payload, size_t length) {
    buffer_format(out, "42[\"publish\",{\"topic\":\"%s\",\"message\":\"", topic);
    buffer_add(out, payload, length);
    buffer_text(out, "\"}]");
}

static size_t read_message(struct peer *peer, const char *data, size_t length) {
    const char *payload;
    size_t payload_length;
    if (length >= 2 && memcmp(data, "42", 2) == 0 && find_payload(data, length, &payload, &payload_length))
        peer->listener->delivered(peer, payload, payload_length);
    else if (length >= 2 && memcmp(data, "43", 2) == 0)
        peer->listener->subscribed(peer);
    else if (length >= 2 && memcmp(data, "40", 2) == 0)
        peer->listener->ready(peer);
    else if (length >= 1 && data[0] == '2')
        peer->listener->answer(peer, "3", 1);
    else if (length < 1 || data[0] != '0')
        peer->listener->failed(peer, "an unknown packet", data, length);
    return length;
}

const struct adapter socketio_adapter = {
    .name = "socketio",
    .opcode = 1,
    /* The server's open packet may come after it: connecting to the namespace "/" does not depend on it. */
    .greeting = "40",
    .subscribe = subscribe,
    .publish = publish,
    .read = read_message,
};
