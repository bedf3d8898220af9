"""The sending side of peering: a link for each peer. Django only in the store beside it."""
