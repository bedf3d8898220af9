#include "buffer.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char *buffer_room(struct buffer *buffer, size_t length) {
    size_t needed = buffer->length + length;
    if (needed > buffer->capacity) {
        size_t capacity = buffer->capacity ? buffer->capacity : 64;
        while (capacity < needed)
            capacity *= 2;
        buffer->data = realloc(buffer->data, capacity);
        if (!buffer->data) {
            fputs("out of memory\n", stderr);
            exit(1);
        }
        buffer->capacity = capacity;
    }
    return buffer->data + buffer->length;
}

void buffer_add(struct buffer *buffer, const void *data, size_t length) {
    if (!length)
        return;
    memcpy(buffer_room(buffer, length), data, length);
    buffer->length += length;
}

void buffer_text(struct buffer *buffer, const char *text) {
    buffer_add(buffer, text, strlen(text));
}

void buffer_format(struct buffer *buffer, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    char *room = buffer_room(buffer, (size_t)length + 1);
    va_start(arguments, format);
    vsnprintf(room, (size_t)length + 1, format, arguments);
    va_end(arguments);
    buffer->length += (size_t)length;
}

void buffer_drop(struct buffer *buffer, size_t length) {
    buffer->length -= length;
    memmove(buffer->data, buffer->data + length, buffer->length);
}

void buffer_free(struct buffer *buffer) {
    free(buffer->data);
    *buffer = (struct buffer){0};
}
