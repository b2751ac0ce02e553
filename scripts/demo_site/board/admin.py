from django.contrib import admin

from .models import Message, Topic


@admin.register(Topic)
class TopicAdmin(admin.ModelAdmin):
    list_display = ["title", "created", "posts"]
    search_fields = ["title"]


@admin.register(Message)
class MessageAdmin(admin.ModelAdmin):
    list_display = ["author", "topic", "created"]
    list_filter = ["topic"]
    list_select_related = ["topic"]
    raw_id_fields = ["topic"]
