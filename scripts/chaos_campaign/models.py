"""Accounts that money is moved between, and logs of what was done."""

from django.db import models


class Account(models.Model):
    balance = models.IntegerField()


class Transfer(models.Model):
    # Unique by the way it's made. Not enforced, or doubles couldn't be seen.
    key = models.CharField(max_length=40, db_index=True)
    source = models.IntegerField()
    target = models.IntegerField()
    amount = models.IntegerField()


class Entry(models.Model):
    key = models.CharField(max_length=40, db_index=True)
