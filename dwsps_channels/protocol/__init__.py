"""The protocol on the wire: topics, messages, errors and close codes. Pure; imports only itself and msgspec."""
