"""A Python client of dwsps servers, for asyncio and for threads. It needs no Django. docs/reference/python.md is the manual."""

from dwsps_channels.client.backoff import Backoff, Return
from dwsps_channels.client.blocking import BlockingClient, BlockingSubscription
from dwsps_channels.client.client import Client
from dwsps_channels.client.connection import Connection, open_connection
from dwsps_channels.client.errors import (
    AddressNotAllowed,
    CallError,
    CallTimeout,
    Cancelled,
    ClientClosed,
    ClientError,
    ConnectError,
    ConnectionClosed,
    ConnectionLost,
    InvalidCall,
    NoGrant,
    NoToken,
    NotWebSocket,
    OpenTimeout,
    QueueFull,
    Redirected,
    Refused,
    ServerError,
    TLSFailed,
    Unreachable,
)
from dwsps_channels.client.messages import Ack, Message
from dwsps_channels.client.subscription import Subscription

__all__ = [
    "Ack",
    "AddressNotAllowed",
    "Backoff",
    "BlockingClient",
    "BlockingSubscription",
    "CallError",
    "CallTimeout",
    "Cancelled",
    "Client",
    "ClientClosed",
    "ClientError",
    "ConnectError",
    "Connection",
    "ConnectionClosed",
    "ConnectionLost",
    "InvalidCall",
    "Message",
    "NoGrant",
    "NoToken",
    "NotWebSocket",
    "OpenTimeout",
    "QueueFull",
    "Redirected",
    "Refused",
    "Return",
    "ServerError",
    "Subscription",
    "TLSFailed",
    "Unreachable",
    "open_connection",
]
