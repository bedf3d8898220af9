"""A websocket connection taken over from uvicorn: reading, writing and backpressure without ASGI in between."""
