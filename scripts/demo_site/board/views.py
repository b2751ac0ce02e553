import dataclasses

from django.db import connection, transaction
from django.db.models import Count, F
from django.forms import modelform_factory
from django.http import JsonResponse
from django.shortcuts import get_object_or_404, redirect, render

from .apps import connections_opened
from .models import Message, Topic

MessageForm = modelform_factory(Message, fields=["author", "text"])


def index(request):
    topics = Topic.objects.annotate(count=Count("messages"))
    return render(request, "board/index.html", {"topics": topics, "pool": pool_stats()})


def topic(request, pk):
    topic = get_object_or_404(Topic, pk=pk)
    form = MessageForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        form.instance.topic = topic
        with transaction.atomic():
            # First what locks the topic: two that post to it wait in line.
            Topic.objects.filter(pk=pk).update(posts=F("posts") + 1)
            form.save()
        return redirect(topic)
    context = {"topic": topic, "messages": topic.messages.all()[:20], "form": form}
    return render(request, "board/topic.html", context)


def pool(request):
    """What the pool of this process did, for programs."""
    return JsonResponse({"opened": connections_opened.value, "pool": pool_stats()})


def pool_stats():
    if getattr(connection, "pool", None) is None:
        return None
    stats = connection.pool.stats()
    fields = ((f.name, getattr(stats, f.name)) for f in dataclasses.fields(stats))
    return {name: readable(value) for name, value in fields}


def readable(value):
    """Return a value as it is, and a histogram as its most telling figures."""
    if not hasattr(value, "quantile"):
        return value
    return {
        "count": value.count,
        "mean": value.mean,
        "p50": value.quantile(0.5),
        "p99": value.quantile(0.99),
    }
