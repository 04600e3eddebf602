import uuid

import django.contrib.postgres.fields
import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    operations = [
        migrations.CreateModel(
            "Author",
            [
                ("id", models.UUIDField(primary_key=True, default=uuid.uuid4)),
                ("name", models.CharField(max_length=100, db_index=True)),
                ("tags", django.contrib.postgres.fields.ArrayField(models.TextField(), default=list)),
                ("doc", models.JSONField(null=True)),
                ("photo", models.BinaryField(null=True)),
            ],
        ),
        migrations.CreateModel(
            "Book",
            [
                ("id", models.BigIntegerField(primary_key=True)),
                ("author", models.ForeignKey("shop.Author", django.db.models.deletion.CASCADE, db_constraint=False)),
                ("title", models.CharField(max_length=50)),
                ("price", models.DecimalField(max_digits=10, decimal_places=2, default=0)),
                ("published", models.DateTimeField(null=True)),
            ],
        ),
    ]
