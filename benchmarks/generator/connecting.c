#define _GNU_SOURCE

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "delays.h"
#include "loads.h"
#include "payload.h"

enum { MAX_TOPIC = 64, GROUP_COUNT = 50 };

static const int64_t MILLISECOND = 1000000;

static void hold(struct engine *engine, const char *what) {
    printf("{\"held\": \"%s\"}\n", what);
    fflush(stdout);
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    while (poll(&input, 1, 0) == 0)
        engine_poll(engine, clock_now() + 10 * MILLISECOND);
    char line[256];
    if (!fgets(line, sizeof line, stdin))
        exit(0);
}

void load_idle(struct engine *engine, const struct options *options) {
    size_t warming = (size_t)options->warming, count = (size_t)options->connections;
    struct connection *connections = calloc(warming + count, sizeof *connections);
    setvbuf(stdin, NULL, _IONBF, 0); /* so that poll sees every line */
    engine_open(engine, connections, warming);
    hold(engine, "warming");
    engine_open(engine, connections + warming, count);
    hold(engine, "all");
}

/* What a client of some page might want: what all want, what a group wants, and what is its own. */
static void write_topics(char (*topics)[MAX_TOPIC], struct subscription *subscriptions, size_t client, int count) {
    for (int i = 0; i < count; i++) {
        if (i == 0)
            snprintf(topics[i], MAX_TOPIC, "all");
        else if (i == 1)
            snprintf(topics[i], MAX_TOPIC, "group%zu", client % GROUP_COUNT);
        else
            snprintf(topics[i], MAX_TOPIC, "client%zu-%d", client, i);
        subscriptions[i] = (struct subscription){topics[i], false};
    }
}

static struct connection *clients_of_pages(const struct options *options) {
    size_t count = (size_t)options->connections, topic_count = (size_t)options->topics;
    struct connection *connections = calloc(count, sizeof *connections);
    for (size_t i = 0; i < count; i++) {
        char(*topics)[MAX_TOPIC] = calloc(topic_count, sizeof *topics);
        struct subscription *subscriptions = calloc(topic_count, sizeof *subscriptions);
        write_topics(topics, subscriptions, i, options->topics);
        connections[i].subscriptions = subscriptions;
        connections[i].subscription_count = (unsigned)options->topics;
    }
    return connections;
}

static void cut_all(struct connection *connections, size_t count) {
    for (size_t i = 0; i < count; i++)
        connection_cut(&connections[i]);
}

/* Open them all, and print how long that took: a part of a line of JSON. */
static void open_timed(struct engine *engine, struct connection *connections, const struct options *options) {
    size_t count = (size_t)options->connections;
    struct usage before = usage_now(options->servers, options->server_count);
    int64_t began = clock_now(), idle_before = engine->idle;
    engine_open(engine, connections, count);
    double seconds = (double)(clock_now() - began) / 1e9;
    double idle = (double)(engine->idle - idle_before) / 1e9;
    struct usage after = usage_now(options->servers, options->server_count);
    printf("{\"connections\": %zu, \"seconds\": %.6f, \"rate\": %.1f, ", count, seconds, (double)count / seconds);
    printf("\"busy\": {\"generator\": %.4f, \"server\": %.4f, \"others\": %.4f}", 1 - idle / seconds,
           (after.server - before.server) / seconds, (after.others - before.others) / seconds);
}

void load_storm(struct engine *engine, const struct options *options) {
    size_t count = (size_t)options->connections;
    struct connection *connections = clients_of_pages(options);
    engine_open(engine, connections, count);
    cut_all(connections, count);
    open_timed(engine, connections, options);
    puts("}");
}

/* Recovery */

enum { MISSED_LENGTH = 32, MISSED_WINDOW = 64, ITEM_COUNT = 10 };

struct recovery {
    const struct options *options;
    uint32_t published, acknowledged; /* of all groups together */
    uint64_t delivered;
    struct faults faults;
};

static void count_ack(struct connection *connection) {
    ((struct recovery *)connection->engine->load)->acknowledged++;
}

static void enter_missed(struct connection *connection, const char *payload, size_t length) {
    struct recovery *recovery = connection->engine->load;
    uint32_t group, sequence;
    if (!payload_read(payload, length, MISSED_LENGTH, &group, &sequence))
        recovery->faults.damaged++;
    else if (group != connection->publisher)
        recovery->faults.misdirected++;
    else if (ledger_enter(&connection->ledger, sequence, &recovery->faults))
        recovery->delivered++;
}

/* To topics below each group's, in turns, so that a group's messages lie apart in the server's log. */
static void publish_missed(struct engine *engine, struct recovery *recovery) {
    static struct connection publisher;
    static struct buffer message;
    char payload[MISSED_LENGTH], topic[MAX_TOPIC];
    uint32_t count = GROUP_COUNT * (uint32_t)recovery->options->missed;
    engine_open(engine, &publisher, 1);
    while (recovery->acknowledged < count) {
        while (recovery->published < count && recovery->published - recovery->acknowledged < MISSED_WINDOW) {
            uint32_t group = recovery->published % GROUP_COUNT, sequence = recovery->published / GROUP_COUNT;
            snprintf(topic, sizeof topic, "group%u.item%u", group, sequence % ITEM_COUNT);
            payload_write(payload, sizeof payload, group, sequence);
            message.length = 0;
            engine->adapter->publish(&message, topic, payload, sizeof payload);
            connection_queue(&publisher, message.data, message.length);
            recovery->published++;
        }
        connection_flush(&publisher);
        engine_poll(engine, clock_now() + 100 * MILLISECOND);
    }
    connection_cut(&publisher);
}

void load_recover(struct engine *engine, const struct options *options) {
    size_t count = (size_t)options->connections;
    uint64_t recovered = 0;
    struct recovery recovery = {.options = options};
    struct connection *connections = clients_of_pages(options);
    if (!engine->adapter->follow)
        die("%s has no recovery", engine->adapter->name);
    if (options->topics < 2)
        die("what is missed is published to the second topic of each: --topics is at least 2");
    for (size_t i = 0; i < count; i++)
        connections[i].publisher = (uint32_t)(i % GROUP_COUNT);
    engine->load = &recovery;
    engine->delivered = enter_missed;
    engine->acknowledged = count_ack;
    engine->subscribing = FOLLOW;
    setvbuf(stdin, NULL, _IONBF, 0); /* so that poll sees every line */
    engine_open(engine, connections, count);
    for (size_t i = 0; i < count; i++)
        if (!connections[i].cursor[0])
            die("the server gave no cursor");
    hold(engine, "connected");
    cut_all(connections, count);
    publish_missed(engine, &recovery);
    hold(engine, "missed");

    engine->subscribing = RESUME;
    open_timed(engine, connections, options);
    for (size_t i = 0; i < count; i++) {
        recovered += connections[i].recovered == connections[i].subscription_count;
        /* What is missed comes before the ack that ends the opening. */
        ledger_close(&connections[i].ledger, (uint32_t)options->missed, &recovery.faults);
    }
    printf(", \"recovered\": %llu, ", (unsigned long long)recovered);
    print_checked(recovery.published, count * (uint64_t)options->missed, recovery.delivered, &recovery.faults);
    puts("}");
    hold(engine, "recovered");
}
