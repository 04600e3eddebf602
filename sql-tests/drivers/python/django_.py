"""Django's ORM and migrations, over psycopg 3."""

import datetime
import decimal
import os
import uuid

import django
from django.conf import settings

settings.configure(
    INSTALLED_APPS=["shop"],
    USE_TZ=True,
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": os.environ["PGHOST"],
            "PORT": os.environ["PGPORT"],
            "USER": os.environ["PGUSER"],
            "NAME": os.environ["PGDATABASE"],
        }
    },
)
django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import IntegrityError, connection, models, transaction  # noqa: E402
from django.db.migrations.loader import MigrationLoader  # noqa: E402
from django.db.migrations.state import ProjectState  # noqa: E402

from checks import check, fails, main, same  # noqa: E402
from shop.models import Author, Book  # noqa: E402

IDS = [uuid.UUID(int=number) for number in range(1, 11)]
NOON = datetime.datetime(2024, 1, 1, 12, tzinfo=datetime.timezone.utc)


def drop_tables():
    with connection.cursor() as cursor:
        for table in ("shop_book", "shop_author", "django_migrations"):
            cursor.execute(f"DROP TABLE IF EXISTS {table}")


@check("connect")
def _():
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s + 1", [1])
        same(cursor.fetchone(), (2,))


@check("migrations, operation by operation")
def _():
    drop_tables()
    loader, state = MigrationLoader(None), ProjectState()
    for name in ("0001_initial", "0002_stock"):
        with connection.schema_editor(atomic=True) as editor:
            state = loader.graph.nodes["shop", name].apply(state, editor)
    same("book_published" in connection.introspection.get_constraints(connection.cursor(), "shop_book"), True)


@check("crud")
def _():
    for key in IDS:
        Author.objects.create(id=key, name=f"author {key.int}")
    for number in range(1, 31):
        Book.objects.create(id=number, author_id=IDS[number % 10], title=f"book {number}", price=number)
    same((Author.objects.count(), Book.objects.count()), (10, 30))
    book = Book.objects.get(id=3)
    book.published, book.price = NOON, decimal.Decimal("9.99")
    book.save()
    same(Book.objects.values_list("published", "price").get(id=3), (NOON, decimal.Decimal("9.99")))
    same(Book.objects.filter(price__gt=25).update(stock=models.F("stock") + 1), 5)
    same(Book.objects.filter(id=30).delete()[0], 1)
    same(Book.objects.filter(author=IDS[1], stock=0).count(), 3)


@check("get_or_create and update_or_create")
def _():
    same(Book.objects.get_or_create(id=100, defaults={"title": "new", "author_id": IDS[0]})[1], True)
    same(Book.objects.get_or_create(id=100, defaults={"title": "other", "author_id": IDS[0]})[1], False)
    same(Book.objects.update_or_create(id=100, defaults={"title": "changed"})[0].title, "changed")


@check("transactions")
def _():
    with transaction.atomic():
        for number in (1, 2, 3, 4):
            Book.objects.filter(id=number).update(price=1)
        try:
            with transaction.atomic():
                Book.objects.filter(id=2).update(price=99)
                raise KeyError
        except KeyError:
            pass
    same(sorted(Book.objects.filter(price=1).values_list("id", flat=True)), [1, 2, 3, 4])
    with transaction.atomic():
        same(Book.objects.select_for_update().get(id=1).price, 1)


@check("arrays, JSON and large values")
def _():
    author = Author.objects.get(id=IDS[0])
    author.tags, author.doc, author.photo = ["a", 'b "c"'], {"n": [1, None, "ü"]}, bytes(range(256)) * 8000
    author.save()
    author = Author.objects.get(id=IDS[0])
    same((author.tags, author.doc, len(author.photo)), (["a", 'b "c"'], {"n": [1, None, "ü"]}, 2_048_000))
    same(Author.objects.filter(tags__contains=["a"]).count(), 1)
    same(Author.objects.filter(doc__n__0=1).count(), 1)


@check("errors")
def _():
    fails("23505", lambda: Book.objects.create(id=1, title="twice", author_id=IDS[0]))
    try:
        with transaction.atomic():
            Book.objects.create(id=5, title="twice", author_id=IDS[0])
    except IntegrityError:
        same(Book.objects.filter(id=5).count(), 1)


@check("iterator in a transaction")
def _():
    with transaction.atomic():
        same(len(list(Book.objects.all().iterator(chunk_size=10))), 30)


@check("iterator outside of one")
def _():
    same(len(list(Book.objects.all().iterator(chunk_size=10))), 30)


@check("bulk_create")
def _():
    Book.objects.bulk_create(Book(id=number, author_id=IDS[0], title="many") for number in range(201, 205))
    same(Book.objects.filter(title="many").count(), 4)
    Book.objects.filter(title="many").delete()


@check("introspection (inspectdb)")
def _():
    described = connection.introspection.get_table_description(connection.cursor(), "shop_book")
    same("stock" in [column.name for column in described], True)


@check("exists() by a column that is no key")
def _():
    same(Author.objects.filter(name="author 4").exists(), True)


@check("first() and order_by()")
def _():
    same(Book.objects.order_by("-id").values_list("id", flat=True)[:2][0], 100)
    same(Author.objects.first().id, IDS[0])


@check("aggregate() and annotate()")
def _():
    same(Book.objects.filter(id__lt=5).aggregate(models.Sum("price"))["price__sum"], 4)


@check("select_related()")
def _():
    same(len(Book.objects.select_related("author").filter(id__lt=5)), 4)


@check("delete() with dependent rows")
def _():
    same(Author.objects.get(id=IDS[9]).delete()[0] > 1, True)


@check("a unique column that is no key")
def _():
    with connection.schema_editor() as editor:
        field = models.CharField(max_length=20, unique=True, null=True)
        field.set_attributes_from_name("isbn")
        editor.add_field(Book, field)


@check("migrate")
def _():
    drop_tables()
    call_command("migrate", verbosity=0)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM django_migrations")
        same(cursor.fetchone(), (2,))


if __name__ == "__main__":
    main()
