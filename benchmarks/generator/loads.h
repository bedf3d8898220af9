/* What the generator can do to a server. Each prints its result as a line of JSON. */
#ifndef LOADS_H
#define LOADS_H

#include "engine.h"
#include "usage.h"

struct options {
    int groups;      /* topics, each with a publisher */
    int subscribers; /* of each group */
    int levels;      /* of each topic; the subscribers are spread over them */
    int in_flight;   /* publishes of each publisher that not all have got */
    int gathered;    /* 0: each publish is written at once; 1: after all that has come was read, in one write */
    int payload;     /* its length in bytes, without the quotes */
    double warm_up;  /* seconds */
    double seconds;
    double silence; /* seconds without a delivery after which those that are out are lost */
    int connections;
    int topics;  /* of each connection */
    int missed;  /* messages that each connection misses while it is away */
    int rate;         /* publishes of each publisher a second; 0: as many as in_flight allows */
    int publish_port; /* where publishers connect to; 0: to where all do */
    int warming;  /* connections that are opened before the others */
    int timeout; /* seconds until the run is given up */
    int spin;     /* microseconds: see engine.h */
    int servers[MAX_SERVERS];
    int server_count;
};

/* Publish as fast as subscribers get it. */
void load_publish(struct engine *engine, const struct options *options);

/* Open connections, and hold them until a line comes on stdin: first those that warm up, then the others. */
void load_idle(struct engine *engine, const struct options *options);

/* Open connections with their topics, cut them all, and open them anew. */
void load_storm(struct engine *engine, const struct options *options);

/* Open connections, cut them all, publish what they miss, and have all resume. Held before the cut, before they resume, and at the end. */
void load_recover(struct engine *engine, const struct options *options);

#endif
