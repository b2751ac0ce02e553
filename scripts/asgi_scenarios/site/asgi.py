"""The application. Consumers are there if channels is installed."""

import importlib.util

import django

django.setup(set_prefix=False)

from django.core.asgi import get_asgi_application  # NOQA: E402

application = get_asgi_application()

if importlib.util.find_spec("channels"):
    from channels.routing import ProtocolTypeRouter, URLRouter

    from django.urls import path

    from .consumers import Consumer, IndependentConsumer

    application = ProtocolTypeRouter(
        {
            "http": application,
            # The pools are closed when it ends.
            "lifespan": application,
            "websocket": URLRouter(
                [
                    path("websocket/", Consumer.as_asgi()),
                    path("websocket-context/", IndependentConsumer.as_asgi()),
                ]
            ),
        }
    )
