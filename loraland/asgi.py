"""The ASGI entry: HTTP to Django, WebSockets to the playground's consumers, same origin only."""

from __future__ import annotations

import os
import sys

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application

# Threads that ask the database let the event loop in between, on which answers stream; by default it would wait 5 ms.
sys.setswitchinterval(0.0005)
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "loraland.settings")
django_application = get_asgi_application()

from loraland.doorway import Doorway  # noqa: E402
from loraland.edge.origins import SameOrigin  # noqa: E402 - needs the apps loaded
from loraland.edge.proxies import Proxies  # noqa: E402
from loraland.gate import Gate  # noqa: E402
from loraland.handlers import ApiHandler, SharedThreads, by_path  # noqa: E402
from loraland.playground.farewell import Farewell  # noqa: E402
from loraland.playground.routing import websocket_urlpatterns  # noqa: E402

application = Proxies(
    Doorway(
        Gate(
            ProtocolTypeRouter(
                {
                    "http": by_path(SharedThreads(ApiHandler()), django_application),
                    "websocket": SameOrigin(Farewell(AuthMiddlewareStack(URLRouter(websocket_urlpatterns)))),
                }
            )
        )
    )
)
