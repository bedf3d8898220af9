/* Who used the processors, in seconds. */
#ifndef USAGE_H
#define USAGE_H

enum { MAX_SERVERS = 4 };

struct usage {
    double generator;
    double server; /* that of which the process was given first */
    double others; /* all but these, and all that the server is made of; what the host took away counts too */
};

/* Since the start of each. `servers` are the process ids of all that the server is made of, `count` of them. */
struct usage usage_now(const int *servers, int count);

#endif
