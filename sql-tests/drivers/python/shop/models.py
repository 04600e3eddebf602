"""Models with keys that the application gives; rows of different models need not be in one group, so no constraint binds them."""

import uuid

from django.contrib.postgres.fields import ArrayField
from django.db import models


class Author(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    name = models.CharField(max_length=100, db_index=True)
    tags = ArrayField(models.TextField(), default=list)
    doc = models.JSONField(null=True)
    photo = models.BinaryField(null=True)


class Book(models.Model):
    id = models.BigIntegerField(primary_key=True)
    author = models.ForeignKey(Author, models.CASCADE, db_constraint=False)
    title = models.TextField()
    price = models.DecimalField(max_digits=10, decimal_places=2, default=0)
    published = models.DateTimeField(null=True)
    stock = models.IntegerField(default=0)
