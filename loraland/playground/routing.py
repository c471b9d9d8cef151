"""The one WebSocket of the site."""

from __future__ import annotations

from django.urls import path

from loraland.playground.consumers import AnswersConsumer

websocket_urlpatterns = [path("ws/answers/", AnswersConsumer.as_asgi())]
