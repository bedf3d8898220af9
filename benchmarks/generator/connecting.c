#define _GNU_SOURCE

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "delays.h"
#include "loads.h"

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

void load_storm(struct engine *engine, const struct options *options) {
    size_t count = (size_t)options->connections, topic_count = (size_t)options->topics;
    struct connection *connections = calloc(count, sizeof *connections);
    for (size_t i = 0; i < count; i++) {
        char(*topics)[MAX_TOPIC] = calloc(topic_count, sizeof *topics);
        struct subscription *subscriptions = calloc(topic_count, sizeof *subscriptions);
        write_topics(topics, subscriptions, i, options->topics);
        connections[i].subscriptions = subscriptions;
        connections[i].subscription_count = (unsigned)options->topics;
    }
    engine_open(engine, connections, count);
    for (size_t i = 0; i < count; i++)
        connection_cut(&connections[i]);

    struct usage before = usage_now(options->servers, options->server_count);
    int64_t began = clock_now(), idle_before = engine->idle;
    engine_open(engine, connections, count);
    double seconds = (double)(clock_now() - began) / 1e9;
    double idle = (double)(engine->idle - idle_before) / 1e9;
    struct usage after = usage_now(options->servers, options->server_count);
    printf("{\"connections\": %zu, \"seconds\": %.6f, \"rate\": %.1f, ", count, seconds, (double)count / seconds);
    printf("\"busy\": {\"generator\": %.4f, \"server\": %.4f, \"others\": %.4f}}\n", 1 - idle / seconds,
           (after.server - before.server) / seconds, (after.others - before.others) / seconds);
}
