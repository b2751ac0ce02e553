from shop import views

from django.urls import path

urlpatterns = [
    path("ready/", views.ready),
    path("sync/", views.shelf),
    path("async/", views.async_shelf),
]
