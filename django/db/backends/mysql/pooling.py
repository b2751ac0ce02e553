from django.db.backends.base.pooling import BaseDatabasePooling


class DatabasePooling(BaseDatabasePooling):
    connect_timeout_param = "connect_timeout"
    wrapper_attributes = ("isolation_level",)
    harmless_words = BaseDatabasePooling.harmless_words | {"REPLACE"}
