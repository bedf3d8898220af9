/*
 * JetStream, the log of nats-server, as far as recovery goes: a client that comes back makes a consumer for each topic,
 * which begins after the last sequence number that the client knows. For all else the adapter is that of NATS.
 *
 * The stream is called S (benchmarks/contestants.py makes it) and keeps what is published to topics of two levels.
 */
#define _GNU_SOURCE /* memmem */

#include "../adapter.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Makes names: of subscriptions, and of the subjects that answers come to. The stream keeps none of three levels. */
static unsigned requests;

static void follow(struct buffer *out, const char *topic) {
    unsigned request = requests++;
    buffer_format(out, "SUB %s.> t%u\r\nSUB _R.info.%u i%u\r\nPUB $JS.API.STREAM.INFO.S _R.info.%u 0\r\n\r\n", topic,
                  request, request, request, request);
}

static void resume(struct buffer *out, const char *cursor, const char *const *topics, unsigned count) {
    static struct buffer config;
    for (unsigned i = 0; i < count; i++) {
        unsigned request = requests++;
        config.length = 0;
        buffer_format(&config,
                      "{\"stream_name\":\"S\",\"config\":{\"deliver_subject\":\"_D.%u.x\",\"filter_subject\":\"%s.*\","
                      "\"deliver_policy\":\"by_start_sequence\",\"opt_start_seq\":%llu,\"ack_policy\":\"none\","
                      "\"replay_policy\":\"instant\",\"mem_storage\":true}}",
                      request, topics[i], strtoull(cursor, NULL, 10) + 1);
        buffer_format(out, "SUB _D.%u.x d%u\r\nSUB _R.make.%u m%u\r\nPUB $JS.API.CONSUMER.CREATE.S _R.make.%u %zu\r\n",
                      request, request, request, request, request, config.length);
        buffer_add(out, config.data, config.length);
        buffer_text(out, "\r\n");
    }
}

static void publish(struct buffer *out, const char *topic, const char *payload, size_t length) {
    static bool is_subscribed; /* to the acks: one connection publishes */
    if (!is_subscribed)
        buffer_text(out, "SUB _R.ack.x a\r\n");
    is_subscribed = true;
    buffer_format(out, "PUB %s _R.ack.x %zu\r\n\"", topic, length + 2);
    buffer_add(out, payload, length);
    buffer_text(out, "\"\r\n");
}

static bool begins(const char *data, const char *end, const char *text) {
    size_t length = strlen(text);
    return (size_t)(end - data) >= length && memcmp(data, text, length) == 0;
}

/* The number behind a name in JSON; `missing` if the name is not there. */
static unsigned long long number_of(const char *data, size_t length, const char *name, unsigned long long missing) {
    const char *found = memmem(data, length, name, strlen(name));
    return found ? strtoull(found + strlen(name), NULL, 10) : missing;
}

/* One more topic has all that it missed. */
static void count_whole(struct peer *peer) {
    if (++peer->answered == peer->asked)
        peer->listener->resumed(peer, peer->answered);
}

/* "MSG _D.7.x 1 $JS.ACK.S.consumer.1.57.3.1700000000.0 34": the last level says how many are still to come. */
static void read_delivery(struct peer *peer, const char *line, const char *line_end, const char *data, size_t size) {
    const char *end = memrchr(line, ' ', (size_t)(line_end - line));
    peer->listener->delivered(peer, data + 1, size - 2);
    if (end - line > 2 && end[-1] == '0' && end[-2] == '.' && peer->answered < peer->asked)
        count_whole(peer);
}

static void read_info(struct peer *peer, const char *data, size_t size) {
    char cursor[24];
    unsigned long long last = number_of(data, size, "\"last_seq\":", 0);
    int length = snprintf(cursor, sizeof cursor, "%llu", last);
    peer->listener->cursor(peer, cursor, (size_t)length);
    peer->listener->subscribed(peer);
}

static void read_message(struct peer *peer, const char *line, const char *line_end, const char *data, size_t size) {
    if (contains(data, size, "\"error\""))
        peer->listener->failed(peer, "an error", data, size);
    else if (begins(line, line_end, "MSG _R.info."))
        read_info(peer, data, size);
    else if (begins(line, line_end, "MSG _R.ack."))
        peer->listener->acknowledged(peer);
    else if (!begins(line, line_end, "MSG _R.make."))
        read_delivery(peer, line, line_end, data, size);
    else if (number_of(data, size, "\"num_pending\":", 0) == 0)
        count_whole(peer);
}

static size_t last_number(const char *line, const char *end) {
    const char *space = memrchr(line, ' ', (size_t)(end - line));
    return space ? strtoul(space + 1, NULL, 10) : 0;
}

static size_t read_stream(struct peer *peer, const char *data, size_t length) {
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
            read_message(peer, at, line_end, next, size);
            next += size + 2;
        } else if (begins(at, line_end, "PING")) {
            peer->listener->answer(peer, "PONG\r\n", 6);
        } else if (begins(at, line_end, "PONG")) {
            peer->listener->ready(peer);
        } else if (!begins(at, line_end, "INFO ")) {
            peer->listener->failed(peer, "an unknown line", at, (size_t)(line_end - at));
        }
        at = next;
    }
    return (size_t)(at - data);
}

const struct adapter jetstream_adapter = {
    .name = "jetstream",
    .opcode = 2,
    .stream = true,
    .greeting = "CONNECT {\"verbose\":false,\"pedantic\":false,\"protocol\":1}\r\nPING\r\n",
    .follow = follow,
    .resume = resume,
    .publish = publish,
    .read = read_stream,
};
