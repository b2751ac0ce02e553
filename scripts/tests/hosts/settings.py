import json
import os

SECRET_KEY = "not secret"
ALLOWED_HOSTS = ["*"]
DATABASES = {"default": json.loads(os.environ["HOSTS_DATABASE"])}
ROOT_URLCONF = "hosts.site"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
