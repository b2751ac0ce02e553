from asgiref.sync import ThreadSensitiveContext, sync_to_async
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer

from django.conf import settings

from .models import Item


class Consumer(AsyncWebsocketConsumer):
    """Answers each message with an item, found in the way that it names."""

    async def receive(self, text_data=None, bytes_data=None):
        query = Item.paused(settings.PAUSE / 30)
        if text_data == "async":
            name, _ = await query.aget()
        elif text_data == "channels":
            name, _ = await database_sync_to_async(query.get)()
        else:
            name, _ = await sync_to_async(query.get)()
        await self.send(text_data=name)


class IndependentConsumer(Consumer):
    """Has a thread of its own for sync code, as a request has."""

    async def __call__(self, scope, receive, send):
        async with ThreadSensitiveContext():
            await super().__call__(scope, receive, send)
