from django.db.backends.mysql import base

from .. import RotatingMixin


class DatabaseWrapper(RotatingMixin, base.DatabaseWrapper):
    pass
