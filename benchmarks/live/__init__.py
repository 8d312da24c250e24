"""The live page under load: pictures per second, a fuzz of its websocket, and half an hour of use."""
