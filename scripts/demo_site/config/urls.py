from django.contrib import admin
from django.contrib.staticfiles.views import serve
from django.urls import include, path

urlpatterns = [
    path("", include("board.urls")),
    path("admin/", admin.site.urls),
    # A real site has its web server do this.
    path("static/<path:path>", serve, {"insecure": True}),
]
