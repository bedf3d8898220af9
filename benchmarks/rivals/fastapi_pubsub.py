"""fastapi-websocket-pubsub as its documentation shows it."""

from fastapi import FastAPI
from fastapi_websocket_pubsub import PubSubEndpoint

application = FastAPI()
PubSubEndpoint().register_route(application, "/pubsub")
