"""HTTP in front of the engine: OpenAI's routes, every decoding mode per request, all requests in one batch."""

from unmask.server.app import create_app
from unmask.server.settings import Settings

__all__ = ["Settings", "create_app"]
