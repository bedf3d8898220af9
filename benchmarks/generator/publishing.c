#include <stdio.h>
#include <stdlib.h>

#include "delays.h"
#include "loads.h"
#include "payload.h"

enum { MAX_IN_FLIGHT = 256 /* a power of two */, MAX_TOPIC = 256 };

static const int64_t SECOND = 1000000000;
/* Of a slow server, until it has delivered as much as is in flight. */
static const double MOST_TIMES_LONGER = 5;
/* How long to wait, once all have come, for what comes twice. */
static const int64_t AFTERWARDS = SECOND / 20;

struct publisher {
    struct connection *connection;
    bool is_due; /* is in load->due */
    char topic[MAX_TOPIC];
    uint32_t next;   /* the number of its next publish */
    uint32_t oldest; /* all below it have reached every subscriber */
    struct {
        int64_t sent;
        int remaining; /* subscribers that it has not reached */
    } in_flight[MAX_IN_FLIGHT];
};

struct load {
    const struct options *options;
    int64_t silence; /* after so long without a delivery nothing more is expected */
    struct publisher *publishers;
    uint32_t *due; /* publishers that have room, of which there are due_count: see --gathered */
    size_t due_count;
    bool publishing;
    bool measuring;
    int64_t heard; /* when the last delivery came */
    uint64_t all_deliveries;
    uint64_t acknowledged; /* publishes, as far as the protocol tells */
    int64_t began;         /* when the first could be published */
    struct faults faults;
    struct delays delays; /* of those that came while measuring */
};

/* When a publisher's publish is due. */
static int64_t due_at(const struct load *load, uint32_t sequence) {
    return load->began + (int64_t)((double)sequence / load->options->rate * (double)SECOND);
}

static bool may_publish(const struct load *load, const struct publisher *publisher) {
    return load->publishing && publisher->next - publisher->oldest < (uint32_t)load->options->in_flight &&
           (!load->options->rate || due_at(load, publisher->next) <= clock_now());
}

static void publish(struct engine *engine, struct load *load, uint32_t number) {
    static struct buffer message, payload;
    struct publisher *publisher = &load->publishers[number];
    size_t length = (size_t)load->options->payload;
    while (may_publish(load, publisher)) {
        uint32_t sequence = publisher->next++;
        message.length = payload.length = 0;
        payload_write(buffer_room(&payload, length), length, number, sequence);
        engine->adapter->publish(&message, publisher->topic, payload.data, length);
        publisher->in_flight[sequence % MAX_IN_FLIGHT].remaining = load->options->subscribers;
        publisher->in_flight[sequence % MAX_IN_FLIGHT].sent = clock_now();
        connection_queue(publisher->connection, message.data, message.length);
        if (!load->options->gathered)
            connection_flush(publisher->connection);
    }
    connection_flush(publisher->connection);
}

static void delivered(struct connection *connection, const char *payload, size_t length) {
    struct engine *engine = connection->engine;
    struct load *load = engine->load;
    uint32_t number, sequence;
    if (!payload_read(payload, length, (size_t)load->options->payload, &number, &sequence)) {
        load->faults.damaged++;
        return;
    }
    if (number != connection->publisher) {
        load->faults.misdirected++;
        return;
    }
    struct publisher *publisher = &load->publishers[number];
    if (sequence >= publisher->next) {
        load->faults.damaged++;
        return;
    }
    if (!ledger_enter(&connection->ledger, sequence, &load->faults))
        return;
    load->heard = engine->now;
    load->all_deliveries++;
    if (load->measuring)
        delays_add(&load->delays, (uint64_t)(engine->now - publisher->in_flight[sequence % MAX_IN_FLIGHT].sent));
    publisher->in_flight[sequence % MAX_IN_FLIGHT].remaining--;
    if (sequence != publisher->oldest)
        return;
    while (publisher->oldest != publisher->next &&
           publisher->in_flight[publisher->oldest % MAX_IN_FLIGHT].remaining == 0)
        publisher->oldest++;
    if (!load->options->gathered) {
        publish(engine, load, number);
    } else if (!publisher->is_due) {
        publisher->is_due = true;
        load->due[load->due_count++] = number;
    }
}

static void acknowledged(struct connection *connection) {
    ((struct load *)connection->engine->load)->acknowledged++;
}

/* Publish what is due, and return when the next is; `until` if that is earlier. */
static int64_t publish_due(struct engine *engine, struct load *load, int64_t until) {
    for (int i = 0; i < load->options->groups; i++) {
        publish(engine, load, (uint32_t)i);
        int64_t next = due_at(load, load->publishers[i].next);
        if (next < until)
            until = next;
    }
    return until;
}

/* Read what has come, and publish what was left for afterwards. */
static void receive(struct engine *engine, struct load *load, int64_t until) {
    if (load->options->rate && load->publishing)
        until = publish_due(engine, load, until);
    engine_poll(engine, until);
    for (size_t i = 0; i < load->due_count; i++) {
        load->publishers[load->due[i]].is_due = false;
        publish(engine, load, load->due[i]);
    }
    load->due_count = 0;
}

/* "g0.l1.l2": the first `levels` levels of a group's topic. */
static void write_topic(char *topic, int group, int levels) {
    int at = snprintf(topic, MAX_TOPIC, "g%d", group);
    for (int level = 1; level < levels && at < MAX_TOPIC; level++)
        at += snprintf(topic + at, (size_t)(MAX_TOPIC - at), ".l%d", level);
    if (at >= MAX_TOPIC)
        die("too many levels");
}

static struct connection *subscribed_connections(const struct options *options) {
    size_t count = (size_t)options->groups * (size_t)options->subscribers;
    struct connection *connections = calloc(count, sizeof *connections);
    struct subscription *subscriptions = calloc(count, sizeof *subscriptions);
    char(*topics)[MAX_TOPIC] = calloc(count, sizeof *topics);
    for (size_t i = 0; i < count; i++) {
        int group = (int)i / options->subscribers;
        int levels = 1 + (int)i % options->subscribers % options->levels;
        write_topic(topics[i], group, levels);
        subscriptions[i] = (struct subscription){topics[i], levels < options->levels};
        connections[i].subscriptions = &subscriptions[i];
        connections[i].subscription_count = 1;
        connections[i].publisher = (uint32_t)group;
    }
    return connections;
}

/* Receive until then; false: nothing has come for too long. */
static bool receive_until(struct engine *engine, struct load *load, int64_t end) {
    while (clock_now() < end) {
        int64_t silent = load->heard + load->silence;
        if (clock_now() >= silent)
            return false;
        receive(engine, load, silent < end ? silent : end);
    }
    return true;
}

static bool all_have_come(const struct load *load) {
    for (int i = 0; i < load->options->groups; i++)
        if (load->publishers[i].oldest != load->publishers[i].next)
            return false;
    return true;
}

static void receive_rest(struct engine *engine, struct load *load) {
    load->publishing = false;
    load->heard = clock_now();
    while (!all_have_come(load) && clock_now() - load->heard < load->silence)
        receive(engine, load, clock_now() + AFTERWARDS);
    load->heard = clock_now();
    receive_until(engine, load, clock_now() + AFTERWARDS);
}

static double microseconds(const struct delays *delays, double share) {
    return (double)delays_quantile(delays, share) / 1e3;
}

void load_publish(struct engine *engine, const struct options *options) {
    if (options->in_flight > MAX_IN_FLIGHT)
        die("at most %d publishes in flight", MAX_IN_FLIGHT);
    struct load *load = calloc(1, sizeof *load);
    load->options = options;
    load->silence = (int64_t)(options->silence * (double)SECOND);
    load->publishers = calloc((size_t)options->groups, sizeof *load->publishers);
    load->due = calloc((size_t)options->groups, sizeof *load->due);
    engine->load = load;
    engine->delivered = delivered;
    engine->acknowledged = acknowledged;

    size_t count = (size_t)options->groups * (size_t)options->subscribers;
    struct connection *subscribers = subscribed_connections(options);
    struct connection *publishing = calloc((size_t)options->groups, sizeof *publishing);
    engine_open(engine, subscribers, count);
    for (int i = 0; i < options->groups; i++)
        publishing[i].port = options->publish_port;
    engine_open(engine, publishing, (size_t)options->groups);

    load->publishing = true;
    load->began = load->heard = clock_now();
    for (int i = 0; i < options->groups; i++) {
        load->publishers[i].connection = &publishing[i];
        write_topic(load->publishers[i].topic, i, options->levels);
        publish(engine, load, (uint32_t)i);
    }

    bool moving = receive_until(engine, load, clock_now() + (int64_t)(options->warm_up * (double)SECOND));
    struct usage before = usage_now(options->servers, options->server_count);
    int64_t began = clock_now(), idle_before = engine->idle;
    uint64_t reads_before = engine->reads, acknowledged_before = load->acknowledged;
    load->measuring = true;
    int64_t longest = (int64_t)(MOST_TIMES_LONGER * options->seconds * (double)SECOND);
    moving = moving && receive_until(engine, load, began + (int64_t)(options->seconds * (double)SECOND));
    /* A slow server may give as many as are in flight at once, or none in the time that there was. */
    while (moving && load->delays.count < count * (uint64_t)options->in_flight && clock_now() - began < longest)
        moving = receive_until(engine, load, clock_now() + SECOND / 100);
    load->measuring = false;
    struct usage after = usage_now(options->servers, options->server_count);
    double seconds = (double)(clock_now() - began) / 1e9;
    double idle = (double)(engine->idle - idle_before) / 1e9;
    uint64_t reads = engine->reads - reads_before;
    double ack_rate = (double)(load->acknowledged - acknowledged_before) / seconds;
    receive_rest(engine, load);

    uint64_t published = 0;
    for (size_t i = 0; i < count; i++)
        ledger_close(&subscribers[i].ledger, load->publishers[subscribers[i].publisher].next, &load->faults);
    for (int i = 0; i < options->groups; i++)
        published += load->publishers[i].next;

    const struct faults *faults = &load->faults;
    printf("{\"reads\": %llu, ", (unsigned long long)reads);
    printf("\"deliveries\": %llu, \"seconds\": %.6f, \"rate\": %.1f, \"stalled\": %s, ",
           (unsigned long long)load->delays.count, seconds, (double)load->delays.count / seconds,
           moving ? "false" : "true");
    printf("\"delay_us\": {\"p50\": %.1f, \"p99\": %.1f, \"p99.9\": %.1f}, ", microseconds(&load->delays, 0.5),
           microseconds(&load->delays, 0.99), microseconds(&load->delays, 0.999));
    print_checked(published, published * (unsigned)options->subscribers, load->all_deliveries, faults);
    printf(", \"acknowledged\": %llu, \"ack_rate\": %.1f, ", (unsigned long long)load->acknowledged, ack_rate);
    printf("\"busy\": {\"generator\": %.4f, \"server\": %.4f, \"others\": %.4f}}\n", 1 - idle / seconds,
           (after.server - before.server) / seconds, (after.others - before.others) / seconds);
}
