/*
 * The load generator. `generator --help` says what it does; loads.h, what its options mean.
 */
#define _GNU_SOURCE

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "loads.h"

static const char HELP[] =
    "usage: generator publish|idle|storm|recover --adapter NAME --port PORT [options]\n"
    "       generator frames --adapter NAME              what the adapter sends, a message a line\n"
    "       generator read --adapter NAME [--ready]      what the adapter reads in the message on stdin\n"
    "\n"
    "  --path PATH         of the websocket, / by default\n"
    "  --spin MICROSECONDS that it looks for more before it sleeps (200)\n"
    "  --timeout SECONDS  after which it gives up (60)\n"
    "  --server PID        whose use of the processor is told; more for all that the server is made of\n"
    "publish\n"
    "  --groups N          topics with a publisher each (1)\n"
    "  --subscribers N     of each (1)\n"
    "  --levels N          of each topic, the subscribers spread over them (1)\n"
    "  --in-flight N       publishes of each publisher that have not reached all yet (1)\n"
    "  --gathered 0|1      whether publishes wait until all that has come is read, and are one write then (0)\n"
    "  --payload BYTES     (32)\n"
    "  --warm-up SECONDS   (0.5)\n"
    "  --seconds SECONDS   (2)\n"
    "  --rate N            publishes of each publisher a second; 0: as many as may be in flight (0)\n"
    "  --publish-port PORT of another process of the server, to which publishers connect\n"
    "  --silence SECONDS   without a delivery, after which what is out is lost (5)\n"
    "idle: says so when they are open, and waits for a line on stdin, twice\n"
    "  --warming N         connections opened first (100)\n"
    "  --connections N     opened then (1000)\n"
    "storm\n"
    "  --connections N     opened, cut and opened anew (1000)\n"
    "  --topics N          that each subscribes to (3)\n"
    "recover: as storm, and says so before they are cut, before and after they resume, and waits for a line on stdin\n"
    "  --missed N          messages that each misses meanwhile, all below its second topic (100)\n";

/* For `frames` and `read`: an adapter by itself */

static void print(const char *label, const char *data, size_t length) {
    printf("%s ", label);
    fwrite(data, 1, length, stdout);
    putchar('\n');
}

static void tell_ready(struct peer *peer) {
    peer->is_ready = true;
    puts("ready");
}

static void tell_subscribed(struct peer *peer) {
    (void)peer;
    puts("subscribed");
}

static void tell_acknowledged(struct peer *peer) {
    (void)peer;
    puts("acknowledged");
}

static void tell_cursor(struct peer *peer, const char *cursor, size_t length) {
    (void)peer;
    print("cursor", cursor, length);
}

static void tell_resumed(struct peer *peer, unsigned recovered) {
    (void)peer;
    printf("resumed %u\n", recovered);
}

static void tell_delivered(struct peer *peer, const char *payload, size_t length) {
    (void)peer;
    print("delivered", payload, length);
}

static void tell_answer(struct peer *peer, const char *message, size_t length) {
    (void)peer;
    print("answer", message, length);
}

static void tell_failed(struct peer *peer, const char *why, const char *data, size_t length) {
    (void)peer, (void)data, (void)length;
    print("failed", why, strlen(why));
}

static void show_frames(const struct adapter *adapter) {
    struct buffer out = {0};
    if (adapter->greeting)
        print("greeting", adapter->greeting, strlen(adapter->greeting));
    if (adapter->subscribe) {
        adapter->subscribe(&out, "a.b", false);
        print("subscribe", out.data, out.length);
        out.length = 0;
        adapter->subscribe(&out, "a.b", true);
        print("subscribe-below", out.data, out.length);
        out.length = 0;
    }
    if (adapter->follow) {
        adapter->follow(&out, "a.b");
        print("follow", out.data, out.length);
        out.length = 0;
        adapter->resume(&out, "7", (const char *const[]){"a.b", "c"}, 2);
        print("resume", out.data, out.length);
        out.length = 0;
    }
    adapter->publish(&out, "a.b", "~payload~", 9);
    print("publish", out.data, out.length);
}

static void show_reading(const struct adapter *adapter, bool is_ready) {
    static const struct listener TELLING = {
        .ready = tell_ready,
        .subscribed = tell_subscribed,
        .acknowledged = tell_acknowledged,
        .cursor = tell_cursor,
        .resumed = tell_resumed,
        .delivered = tell_delivered,
        .answer = tell_answer,
        .failed = tell_failed,
    };
    struct peer peer = {.listener = &TELLING, .is_ready = is_ready};
    struct buffer message = {0};
    size_t length;
    while ((length = fread(buffer_room(&message, 4096), 1, 4096, stdin)) > 0)
        message.length += length;
    size_t read = adapter->read(&peer, message.data, message.length);
    printf("left %zu\n", message.length - read);
}

static struct options options = {
    .groups = 1,
    .subscribers = 1,
    .levels = 1,
    .in_flight = 1,
    .payload = 32,
    .warm_up = 0.5,
    .seconds = 2,
    .silence = 5,
    .connections = 1000,
    .topics = 3,
    .missed = 100,
    .warming = 100,
    .timeout = 60,
    .spin = 200,
};

static const struct {
    const char *name;
    int *number;
    double *seconds;
    int minimum;
} VALUES[] = {
    {"groups", &options.groups, NULL, 1},
    {"subscribers", &options.subscribers, NULL, 1},
    {"levels", &options.levels, NULL, 1},
    {"in-flight", &options.in_flight, NULL, 1},
    {"gathered", &options.gathered, NULL, 0},
    {"payload", &options.payload, NULL, 20},
    {"connections", &options.connections, NULL, 1},
    {"topics", &options.topics, NULL, 1},
    {"missed", &options.missed, NULL, 1},
    {"rate", &options.rate, NULL, 0},
    {"publish-port", &options.publish_port, NULL, 0},
    {"warming", &options.warming, NULL, 1},
    {"timeout", &options.timeout, NULL, 1},
    {"spin", &options.spin, NULL, 0},
    {"warm-up", NULL, &options.warm_up, 0},
    {"seconds", NULL, &options.seconds, 0},
    {"silence", NULL, &options.silence, 0},
};

static void read_value(const char *name, const char *text) {
    for (size_t i = 0; i < sizeof VALUES / sizeof *VALUES; i++) {
        if (strcmp(name, VALUES[i].name) != 0)
            continue;
        char *end;
        double value = strtod(text, &end);
        if (end == text || *end || value < VALUES[i].minimum)
            die("--%s is a number, at least %d", name, VALUES[i].minimum);
        if (VALUES[i].number)
            *VALUES[i].number = (int)value;
        else
            *VALUES[i].seconds = value;
    }
}

static void give_up(int signal) {
    static const char WHY[] = "it took too long\n";
    (void)signal;
    _exit(write(STDERR_FILENO, WHY, sizeof WHY - 1) < 0 ? 2 : 1);
}

int main(int count, char **words) {
    static const struct option LONG[] = {
        {"help", no_argument, NULL, 'h'},          {"ready", no_argument, NULL, 'r'},
        {"adapter", required_argument, NULL, 0},   {"port", required_argument, NULL, 0},
        {"path", required_argument, NULL, 0},      {"server", required_argument, NULL, 0},
        {"groups", required_argument, NULL, 0},    {"subscribers", required_argument, NULL, 0},
        {"levels", required_argument, NULL, 0},    {"in-flight", required_argument, NULL, 0},
        {"payload", required_argument, NULL, 0},   {"warm-up", required_argument, NULL, 0},
        {"seconds", required_argument, NULL, 0},   {"connections", required_argument, NULL, 0},
        {"topics", required_argument, NULL, 0},    {"warming", required_argument, NULL, 0},
        {"timeout", required_argument, NULL, 0},  {"silence", required_argument, NULL, 0},
        {"spin", required_argument, NULL, 0},      {"gathered", required_argument, NULL, 0},
        {"missed", required_argument, NULL, 0},    {"rate", required_argument, NULL, 0},
        {"publish-port", required_argument, NULL, 0},
        {0},
    };
    struct engine engine = {.path = "/"};
    bool is_ready = false;
    int letter, index;
    while ((letter = getopt_long(count, words, "h", LONG, &index)) != -1) {
        if (letter == 'h') {
            fputs(HELP, stdout);
            return 0;
        }
        if (letter == '?')
            return 2;
        if (letter == 'r') {
            is_ready = true;
            continue;
        }
        const char *name = LONG[index].name;
        if (strcmp(name, "adapter") == 0) {
            if (!(engine.adapter = adapter_named(optarg)))
                die("there is no adapter called %s", optarg);
        } else if (strcmp(name, "port") == 0) {
            engine.port = atoi(optarg);
        } else if (strcmp(name, "path") == 0) {
            engine.path = optarg;
        } else if (strcmp(name, "server") == 0) {
            if (options.server_count == MAX_SERVERS)
                die("at most %d processes", MAX_SERVERS);
            options.servers[options.server_count++] = atoi(optarg);
        } else {
            read_value(name, optarg);
        }
    }
    const char *load = optind == count - 1 ? words[optind] : "";
    if (!engine.adapter)
        die("which adapter? see --help");
    if (strcmp(load, "frames") == 0) {
        show_frames(engine.adapter);
        return 0;
    }
    if (strcmp(load, "read") == 0) {
        show_reading(engine.adapter, is_ready);
        return 0;
    }
    if (engine.port <= 0)
        die("which port? see --help");
    signal(SIGALRM, give_up);
    alarm((unsigned)options.timeout);
    engine.spin = (int64_t)options.spin * 1000;
    engine_start(&engine);
    if (strcmp(load, "publish") == 0)
        load_publish(&engine, &options);
    else if (strcmp(load, "idle") == 0)
        load_idle(&engine, &options);
    else if (strcmp(load, "storm") == 0)
        load_storm(&engine, &options);
    else if (strcmp(load, "recover") == 0)
        load_recover(&engine, &options);
    else
        die("publish, idle, storm or recover? see --help");
    return 0;
}
