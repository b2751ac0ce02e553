from django.db import models


class Pause(models.Func):
    """Takes so many seconds on the server."""

    output_field = models.CharField()
    function = "pause"

    def as_postgresql(self, compiler, connection):
        template = "CAST(pg_sleep(%(expressions)s) AS text)"
        return self.as_sql(compiler, connection, template=template)

    def as_mysql(self, compiler, connection):
        return self.as_sql(compiler, connection, function="SLEEP")


class Item(models.Model):
    """There are some, and they're only read."""

    name = models.CharField(max_length=50)

    @classmethod
    def paused(cls, seconds):
        """Return a query for the name of the first item that takes a time."""
        query = cls.objects.filter(pk=1).annotate(pause=Pause(models.Value(seconds)))
        return query.values_list("name", "pause")


class Entry(models.Model):
    """Written in transactions, always two of a key."""

    key = models.CharField(max_length=40, db_index=True)
