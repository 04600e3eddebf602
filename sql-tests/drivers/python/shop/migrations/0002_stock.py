from django.db import migrations, models


def fill(apps, schema_editor):
    """A migration of data: every book has one copy."""
    apps.get_model("shop", "Book").objects.update(stock=1)


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]

    operations = [
        migrations.AddField("Book", "stock", models.IntegerField(default=0)),
        migrations.AlterField("Book", "title", models.TextField()),
        migrations.RunPython(fill, migrations.RunPython.noop),
        migrations.AddIndex("Book", models.Index(fields=["published"], name="book_published")),
    ]
