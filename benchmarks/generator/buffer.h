/* Bytes that grow. */
#ifndef BUFFER_H
#define BUFFER_H

#include <stddef.h>

struct buffer {
    char *data;
    size_t length;
    size_t capacity;
};

void buffer_add(struct buffer *buffer, const void *data, size_t length);
void buffer_text(struct buffer *buffer, const char *text);
void buffer_format(struct buffer *buffer, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Make room for `length` more bytes and return where they go; add them to `length` yourself. */
char *buffer_room(struct buffer *buffer, size_t length);

/* Drop the first `length` bytes. */
void buffer_drop(struct buffer *buffer, size_t length);

/* Be empty and hold no memory. */
void buffer_free(struct buffer *buffer);

#endif
