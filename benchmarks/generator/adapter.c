#define _GNU_SOURCE /* memmem */

#include "adapter.h"

#include <string.h>

static const struct adapter *const ADAPTERS[] = {
    &dwsps_adapter,
    &fastapi_pubsub_adapter,
    &jetstream_adapter,
    &nats_adapter,
    &socketio_adapter,
};

const struct adapter *adapter_named(const char *name) {
    for (size_t i = 0; i < sizeof ADAPTERS / sizeof *ADAPTERS; i++)
        if (strcmp(ADAPTERS[i]->name, name) == 0)
            return ADAPTERS[i];
    return NULL;
}

bool contains(const char *data, size_t length, const char *text) {
    return memmem(data, length, text, strlen(text)) != NULL;
}

bool find_payload(const char *data, size_t length, const char **payload, size_t *payload_length) {
    const char *start = memchr(data, '~', length);
    if (!start || start == data || start[-1] != '"')
        return false;
    const char *end = memchr(start, '"', length - (size_t)(start - data));
    if (!end)
        return false;
    *payload = start;
    *payload_length = (size_t)(end - start);
    return true;
}
