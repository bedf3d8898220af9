"""Peering: forwarding to other servers, and accepting what they forward."""
