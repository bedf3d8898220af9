"""The outgoing half of a connection, for each kind of server."""
