from django.urls import path

from . import views

urlpatterns = [
    path("", views.index, name="index"),
    path("topic/<int:pk>/", views.topic, name="topic"),
    path("pool/", views.pool, name="pool"),
]
