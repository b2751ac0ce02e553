import json
import os

SECRET_KEY = "not secret"
ALLOWED_HOSTS = ["*"]
DATABASES = {"default": json.loads(os.environ["HOSTS_DATABASE"])}
ROOT_URLCONF = os.environ["HOSTS_URLS"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
