"""The receiving side of peering: peers that connect to this server, and their credentials."""
