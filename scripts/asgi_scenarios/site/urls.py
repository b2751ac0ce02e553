from django.urls import path

from . import views

handler500 = views.error_page
urlpatterns = [
    path("statistics/", views.statistics),
    path("sync/", views.sync_view),
    path("async/", views.async_view),
    path("gather/", views.gather),
    path("taskgroup/", views.task_group),
    path("insensitive/", views.insensitive),
    path("to-thread/", views.to_thread),
    path("background/", views.background),
    path("stream/", views.stream),
    path("stream-async/", views.stream_async),
    path("stream-error/", views.stream_error),
    path("waiting/", views.waiting),
    path("slow/", views.slow),
    path("timeout/", views.timeout),
    path("cancel/<int:number>/", views.cancel),
    path("error/", views.error),
    path("leak/", views.leak),
]
