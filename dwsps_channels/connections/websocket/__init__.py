"""RFC 6455 without I/O: the opening handshake, frames and close codes."""
