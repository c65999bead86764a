"""The front door: what clients of OpenAI's API speak, under `/v1` (docs/gateway.md). `routers` are its endpoints."""

from aos_dispatcher.gateway import conversations, images, routes

routers = (routes.router, images.router, conversations.router)

__all__ = ["routers"]
