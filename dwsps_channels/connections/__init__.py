"""Client connections: their handshake, their transport, and the servers beneath them."""
