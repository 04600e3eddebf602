"""psycopg 3 by hand: what an application without an ORM does."""

import datetime
import decimal
import threading
import time
import uuid

import psycopg
from psycopg.types.json import Jsonb

from checks import check, fails, main, same


def connect(**options):
    return psycopg.connect("", **options)


@check("connect")
def _():
    with connect(application_name="psycopg") as db:
        same(db.execute("SELECT 1 + 1").fetchone(), (2,))
        same(db.info.transaction_status.name, "INTRANS")
        same(db.info.parameter_status("application_name"), "psycopg")
        same(db.info.server_version // 10000 >= 14, True)


@check("schema")
def _():
    with connect() as db:
        db.execute("DROP TABLE IF EXISTS p_item")
        db.execute("CREATE TABLE p_item (id bigint PRIMARY KEY, name text NOT NULL, price numeric(10, 2), made timestamptz)")
        db.execute("CREATE INDEX p_item_name ON p_item (name)")
    with connect() as db:
        query = "SELECT column_name FROM information_schema.columns WHERE table_name = %s ORDER BY ordinal_position"
        same([name for (name,) in db.execute(query, ["p_item"])], ["id", "name", "price", "made"])


@check("migrations")
def _():
    with connect(autocommit=True) as db:
        db.execute("DROP TABLE IF EXISTS p_migration")
        db.execute("CREATE TABLE p_migration (version bigint PRIMARY KEY)")
        with db.transaction():
            db.execute("ALTER TABLE p_item ADD COLUMN stock integer NOT NULL DEFAULT 0")
            db.execute("INSERT INTO p_migration VALUES (1)")

        def broken():
            with db.transaction():
                db.execute("ALTER TABLE p_item ADD COLUMN lost integer")
                db.execute("INSERT INTO p_migration VALUES (1)")

        fails("23505", broken)
        fails("42703", db.execute, "SELECT lost FROM p_item WHERE id = 1")
        same(db.execute("SELECT count(*) FROM p_migration").fetchone(), (1,))


@check("crud")
def _():
    with connect() as db, db.cursor() as cursor:
        rows = [(number, f"item {number}", decimal.Decimal(number) / 4) for number in range(1, 21)]
        cursor.executemany("INSERT INTO p_item (id, name, price) VALUES (%s, %s, %s)", rows)
        same(cursor.rowcount, 20)
        cursor.execute("SELECT count(*) FROM p_item")
        same(cursor.fetchone(), (20,))
        cursor.execute("SELECT id, name, price FROM p_item")
        same(sorted(cursor.fetchall()), rows)
        cursor.execute("UPDATE p_item SET stock = stock + 1 WHERE id <> %s", [7])
        same(cursor.rowcount, 19)
        cursor.execute("DELETE FROM p_item WHERE id = ANY(%s)", [[19, 20]])
        same(cursor.rowcount, 2)
        cursor.execute("INSERT INTO p_item (id, name) VALUES (7, 'again') ON CONFLICT (id) DO UPDATE SET name = excluded.name RETURNING name, stock")
        same(cursor.fetchone(), ("again", 0))


@check("transactions")
def _():
    with connect(autocommit=True) as db:
        with db.transaction():
            for number in (1, 2, 3, 4):
                db.execute("UPDATE p_item SET price = 10 WHERE id = %s", [number])
            try:
                with db.transaction():
                    db.execute("UPDATE p_item SET price = 99 WHERE id = 2")
                    raise psycopg.Rollback()
            except psycopg.Rollback:
                pass
        same([db.execute("SELECT price FROM p_item WHERE id = %s", [number]).fetchone()[0] for number in (1, 2, 3, 4)], [10] * 4)
    with connect() as db:
        db.execute("UPDATE p_item SET price = 0 WHERE id < 5")
        db.rollback()
        same(db.execute("SELECT count(*) FROM p_item WHERE price = 10").fetchone(), (4,))


@check("repeatable read")
def _():
    with connect() as reader, connect() as writer:
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        before = reader.execute("SELECT count(*) FROM p_item").fetchone()
        writer.execute("INSERT INTO p_item (id, name) VALUES (100, 'new'), (101, 'new'), (102, 'new')")
        writer.commit()
        same(reader.execute("SELECT count(*) FROM p_item").fetchone(), before)
        reader.commit()
        same(reader.execute("SELECT count(*) FROM p_item").fetchone(), (before[0] + 3,))


@check("prepared statements")
def _():
    with connect() as db:
        for number in range(1, 13):
            row = db.execute("SELECT id, name FROM p_item WHERE id = %s", [number], prepare=True).fetchone()
            same(row[0], number)
        db.prepare_threshold = 2
        for number in range(1, 13):
            db.execute("UPDATE p_item SET stock = %s WHERE id = %s", [number, number])
        same(db.execute("SELECT stock FROM p_item WHERE id = 12").fetchone(), (12,))


@check("COPY in")
def _():
    with connect() as db, db.cursor() as cursor:
        with cursor.copy("COPY p_item (id, name) FROM STDIN") as copy:
            for number in range(1000, 2000):
                copy.write_row((number, f"copied\t{number}\\"))
        same(cursor.rowcount, 1000)
        same(db.execute("SELECT name FROM p_item WHERE id = 1999").fetchone(), ("copied\t1999\\",))


@check("COPY in, binary")
def _():
    with connect() as db, db.cursor() as cursor:
        with cursor.copy("COPY p_item (id, name) FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(["int8", "text"])
            for number in range(2000, 2100):
                copy.write_row((number, "binary"))
        same(cursor.rowcount, 100)


@check("COPY out")
def _():
    with connect() as db, db.cursor() as cursor:
        with cursor.copy("COPY p_item (id, name) TO STDOUT") as copy:
            copy.set_types(["int8", "text"])
            rows = dict(copy.rows())
        same(rows[1000], "copied\t1000\\")
        same(len([key for key in rows if 1000 <= key < 2000]), 1000)


@check("large values")
def _():
    with connect() as db:
        db.execute("DROP TABLE IF EXISTS p_large")
        db.execute("CREATE TABLE p_large (id bigint PRIMARY KEY, data bytea, words text)")
        data, words = bytes(range(256)) * 20_000, "wörd " * 500_000
        for key in (1, 2, 3):
            db.execute("INSERT INTO p_large VALUES (%b, %b, %t)", [key, data, words])
        for key in (1, 2, 3):
            found = db.execute("SELECT data, words FROM p_large WHERE id = %s", [key], binary=True).fetchone()
            same(found == (data, words), True)


@check("arrays")
def _():
    with connect() as db:
        for value in ([1, 2, None], [["a", "b"], ["c", 'd "e" \\']], []):
            kind = "text[]" if value and isinstance(value[0], list) else "int[]"
            for binary in (False, True):
                same(db.execute(f"SELECT %s::{kind}", [value], binary=binary).fetchone(), (value,))


@check("JSON")
def _():
    with connect() as db:
        db.execute("DROP TABLE IF EXISTS p_json")
        db.execute("CREATE TABLE p_json (id bigint PRIMARY KEY, doc jsonb)")
        for key in range(1, 6):
            db.execute("INSERT INTO p_json VALUES (%s, %s)", [key, Jsonb({"n": key, "tags": ["a", None, 1.5]})])
        same(db.execute("SELECT doc, doc->'tags'->>0 FROM p_json WHERE id = 3").fetchone(), ({"n": 3, "tags": ["a", None, 1.5]}, "a"))
        same(sorted(db.execute("SELECT id FROM p_json WHERE doc @> %s", [Jsonb({"n": 4})])), [(4,)])


@check("types")
def _():
    values = [
        uuid.UUID(int=7), datetime.date(2024, 2, 29), decimal.Decimal("1.50"), True, -(2**63), 1.5, "日本",
        datetime.datetime(2024, 1, 1, 12, tzinfo=datetime.timezone.utc), datetime.timedelta(days=1, seconds=2), b"\x00\xff", None,
    ]
    kinds = ["uuid", "date", "numeric", "bool", "int8", "float8", "text", "timestamptz", "interval", "bytea", "int4"]
    with connect() as db:
        query = "SELECT " + ", ".join(f"%s::{kind}" for kind in kinds)
        for binary in (False, True):
            same(list(db.execute(query, values, binary=binary).fetchone()), values)


@check("errors")
def _():
    with connect() as db:
        fails("42601", db.execute, "SELEC 1")
        fails("25P02", db.execute, "SELECT 1")
        db.rollback()
        fails("23505", db.execute, "INSERT INTO p_item (id, name) VALUES (1, 'again')")
        db.rollback()
        fails("23502", db.execute, "INSERT INTO p_item (id) VALUES (-1)")
        db.rollback()
        try:
            db.execute("INSERT INTO p_item (id, name) VALUES (1, 'again')")
        except psycopg.errors.UniqueViolation as error:
            same((error.diag.constraint_name, error.diag.table_name), ("p_item_pkey", "p_item"))
        db.rollback()
        same(db.execute("SELECT 1").fetchone(), (1,))


@check("pipeline")
def _():
    with connect(autocommit=True) as db, db.pipeline() as pipeline:
        asked = [db.execute("SELECT id FROM p_item WHERE id = %s", [number]) for number in range(1, 11)]
        pipeline.sync()
        same([cursor.fetchone() for cursor in asked], [(number,) for number in range(1, 11)])
        wrong = db.execute("SELECT 1 / 0")
        fails("22012", wrong.fetchone)


@check("server-side cursor")
def _():
    with connect() as db, db.cursor(name="wide") as cursor:
        cursor.execute("SELECT g FROM generate_series(1, 100) AS g")
        same([row[0] for row in cursor.fetchmany(10)], list(range(1, 11)))
        same(len(cursor.fetchall()), 90)


@check("server-side cursor over all groups")
def _():
    with connect() as db, db.cursor(name="all") as cursor:
        cursor.execute("SELECT id FROM p_item")
        same(len(cursor.fetchmany(10)), 10)


@check("cancel")
def _():
    with connect() as db:
        threading.Timer(0.3, db.cancel).start()
        began = time.monotonic()
        fails("57014", db.execute, "SELECT pg_sleep(20)")
        same(time.monotonic() - began < 10, True)
        db.rollback()
        same(db.execute("SELECT 1").fetchone(), (1,))


@check("statement_timeout")
def _():
    with connect() as db:
        db.execute("SET statement_timeout = '200ms'")
        fails("57014", db.execute, "SELECT pg_sleep(20)")


@check("lock_timeout")
def _():
    with connect() as holder, connect() as waiter:
        holder.execute("SELECT 1 FROM p_item WHERE id = 5 FOR UPDATE")
        waiter.execute("SET lock_timeout = '200ms'")
        fails("55P03", waiter.execute, "UPDATE p_item SET stock = 1 WHERE id = 5")


@check("identity columns")
def _():
    with connect() as db:
        db.execute("DROP TABLE IF EXISTS p_serial")
        db.execute("CREATE TABLE p_serial (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text)")
        same(len(set(db.execute("INSERT INTO p_serial (name) VALUES ('a'), ('b') RETURNING id").fetchall())), 2)


@check("temporary tables")
def _():
    with connect() as db:
        db.execute("CREATE TEMPORARY TABLE p_temporary (id bigint) ON COMMIT DROP")
        db.execute("INSERT INTO p_temporary VALUES (1)")
        same(db.execute("SELECT id FROM p_temporary").fetchone(), (1,))


@check("LISTEN and NOTIFY")
def _():
    with connect(autocommit=True) as db, connect(autocommit=True) as other:
        db.execute("LISTEN p_news")
        other.execute("NOTIFY p_news, 'hello'")
        same([note.payload for note in db.notifies(timeout=5, stop_after=1)], ["hello"])


@check("ORDER BY, LIMIT and sum over all rows")
def _():
    with connect() as db:
        same(db.execute("SELECT id FROM p_item ORDER BY id LIMIT 3").fetchall(), [(1,), (2,), (3,)])
        same(db.execute("SELECT sum(id) FROM p_item WHERE id < 4").fetchone(), (6,))


if __name__ == "__main__":
    main()
