from shop import views

from django.urls import path

urlpatterns = [
    path("ready/", views.ready),
    path("sync/", views.shelf),
    path("async/", views.async_shelf),
    path("async/naps/<int:milliseconds>/", views.naps),
    path("async/pause/<int:milliseconds>/", views.pause),
    path("async/serial/<int:count>/", views.serial),
]
