from django.db import models
from django.urls import reverse


class Topic(models.Model):
    title = models.CharField(max_length=100)
    created = models.DateTimeField(auto_now_add=True)
    posts = models.PositiveIntegerField(default=0)

    class Meta:
        ordering = ["id"]

    def __str__(self):
        return self.title

    def get_absolute_url(self):
        return reverse("topic", args=[self.pk])


class Message(models.Model):
    topic = models.ForeignKey(Topic, models.CASCADE, related_name="messages")
    author = models.CharField(max_length=50)
    text = models.TextField(max_length=1000)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self):
        return f"{self.author}: {self.text[:50]}"
