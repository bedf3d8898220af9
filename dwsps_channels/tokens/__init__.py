"""Tokens, by which a client without a session cookie tells who it is: docs/how-to/tokens.md."""

from dwsps_channels.core.authenticator import Authentication
from dwsps_channels.tokens.signed import SignedToken, make_token

__all__ = ["Authentication", "SignedToken", "make_token"]
