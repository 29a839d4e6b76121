"""The customers' web page and the agents' view: static files, and the routes that serve them.

Knows nothing of the gateway: the files speak to its HTTP API like any other client.
"""

from gateway.page.routes import CONTENT_SECURITY_POLICY, routes

__all__ = ["CONTENT_SECURITY_POLICY", "routes"]
