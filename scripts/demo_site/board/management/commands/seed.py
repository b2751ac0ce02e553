from board.models import Message, Topic

from django.core.management.base import BaseCommand

TOPICS = 20
MESSAGES = 25


class Command(BaseCommand):
    help = "Fill the board with the same topics and messages, whatever it held."

    def handle(self, **options):
        Topic.objects.all().delete()
        topics = [Topic(id=n, title=f"Topic {n}") for n in range(1, TOPICS + 1)]
        Topic.objects.bulk_create(topics)
        messages = [
            Message(topic=topic, author=f"Author {n}", text=f"Message {n}.")
            for topic in topics
            for n in range(MESSAGES)
        ]
        Message.objects.bulk_create(messages)
