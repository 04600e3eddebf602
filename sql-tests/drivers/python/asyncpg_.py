"""asyncpg: binary only, every statement prepared, pools that reset what they lend."""

import asyncio
import datetime
import decimal
import json
import uuid

import asyncpg

from checks import check, fails_later, main, same


async def connect():
    return await asyncpg.connect(ssl=False)


def with_connection(function):
    async def run():
        db = await connect()
        try:
            await function(db)
        finally:
            await db.close()

    return run


@check("connect")
@with_connection
async def _(db):
    same(await db.fetchval("SELECT 1 + 1"), 2)
    same(db.get_settings().server_encoding, "UTF8")
    same(db.get_server_version().major >= 14, True)


@check("schema")
@with_connection
async def _(db):
    await db.execute("DROP TABLE IF EXISTS a_item; DROP TABLE IF EXISTS a_wide")
    await db.execute("CREATE TABLE a_item (id uuid PRIMARY KEY, name text NOT NULL, price numeric, tags text[], doc jsonb)")
    await db.execute("CREATE INDEX a_item_name ON a_item (name)")
    query = "SELECT column_name FROM information_schema.columns WHERE table_name = $1 ORDER BY ordinal_position"
    same([row[0] for row in await db.fetch(query, "a_item")], ["id", "name", "price", "tags", "doc"])


@check("migrations")
@with_connection
async def _(db):
    async with db.transaction():
        await db.execute("ALTER TABLE a_item ADD COLUMN stock integer NOT NULL DEFAULT 0")
        await db.execute("CREATE TABLE a_wide (id bigint PRIMARY KEY, data bytea)")

    async def broken():
        async with db.transaction():
            await db.execute("ALTER TABLE a_item ADD COLUMN lost integer")
            await db.execute("CREATE TABLE a_wide (id bigint PRIMARY KEY)")

    await fails_later("42P07", broken())
    await fails_later("42703", db.fetch("SELECT lost FROM a_item WHERE id = $1", uuid.UUID(int=1)))


@check("crud")
@with_connection
async def _(db):
    rows = [(uuid.UUID(int=number), f"item {number}", decimal.Decimal(number)) for number in range(1, 21)]
    await db.executemany("INSERT INTO a_item (id, name, price) VALUES ($1, $2, $3)", rows)
    same(await db.fetchval("SELECT count(*) FROM a_item"), 20)
    same(sorted(tuple(row) for row in await db.fetch("SELECT id, name, price FROM a_item")), rows)
    same(await db.execute("UPDATE a_item SET stock = 3 WHERE name <> $1", "item 1"), "UPDATE 19")
    same(await db.execute("DELETE FROM a_item WHERE id = $1", uuid.UUID(int=20)), "DELETE 1")
    same(await db.fetchval("INSERT INTO a_item (id, name) VALUES ($1, 'x') RETURNING name", uuid.UUID(int=21)), "x")


@check("transactions")
@with_connection
async def _(db):
    async with db.transaction():
        for number in (1, 2, 3, 4):
            await db.execute("UPDATE a_item SET price = 10 WHERE id = $1", uuid.UUID(int=number))
        try:
            async with db.transaction():
                await db.execute("UPDATE a_item SET price = 99 WHERE id = $1", uuid.UUID(int=2))
                raise KeyError
        except KeyError:
            pass
    rows = await db.fetch("SELECT price FROM a_item WHERE price = 10 AND name <> 'item 10'")
    same(len(rows), 4)


@check("prepared statements")
@with_connection
async def _(db):
    statement = await db.prepare("SELECT name FROM a_item WHERE id = $1")
    same([kind.name for kind in statement.get_parameters()], ["uuid"])
    same([column.name for column in statement.get_attributes()], ["name"])
    for number in range(1, 11):
        same(await statement.fetchval(uuid.UUID(int=number)), f"item {number}")


@check("a prepared statement survives DDL")
@with_connection
async def _(db):
    query = "SELECT * FROM a_item WHERE id = $1"
    before = len(await db.fetchrow(query, uuid.UUID(int=1)))
    other = await connect()
    await other.execute("ALTER TABLE a_item ADD COLUMN later text")
    await other.close()
    same(len(await db.fetchrow(query, uuid.UUID(int=1))), before + 1)


@check("COPY in")
@with_connection
async def _(db):
    lines = b"".join(b"%d\t\\\\x00ff\n" % number for number in range(1000))

    async def source():
        for at in range(0, len(lines), 1000):
            yield lines[at : at + 1000]

    same(await db.copy_to_table("a_wide", source=source(), columns=["id", "data"], format="text"), "COPY 1000")
    same(await db.fetchval("SELECT data FROM a_wide WHERE id = 999"), b"\x00\xff")


@check("COPY in, binary")
@with_connection
async def _(db):
    records = [(number, b"binary") for number in range(2000, 2100)]
    same(await db.copy_records_to_table("a_wide", records=records, columns=["id", "data"]), "COPY 100")


@check("COPY out")
@with_connection
async def _(db):
    pieces = []

    async def sink(data):
        pieces.append(data)

    await db.copy_from_query("SELECT id FROM a_wide WHERE id = $1", 7, output=sink)
    same(b"".join(pieces), b"7\n")
    pieces.clear()
    await db.copy_from_table("a_wide", columns=["id"], output=sink)
    same(len([key for key in b"".join(pieces).split() if int(key) < 1000]), 1000)


@check("large values")
@with_connection
async def _(db):
    data = bytes(range(256)) * 20_000
    for key in (-1, -2, -3):
        await db.execute("INSERT INTO a_wide VALUES ($1, $2)", key, data)
    for key in (-1, -2, -3):
        same(await db.fetchval("SELECT data FROM a_wide WHERE id = $1", key) == data, True)


@check("arrays")
@with_connection
async def _(db):
    await db.execute("UPDATE a_item SET tags = $2 WHERE id = $1", uuid.UUID(int=1), ["a", None, 'b "c"'])
    same(await db.fetchval("SELECT tags FROM a_item WHERE id = $1", uuid.UUID(int=1)), ["a", None, 'b "c"'])
    same(await db.fetchval("SELECT $1::int[]", [[1, 2], [3, 4]]), [[1, 2], [3, 4]])


@check("JSON")
@with_connection
async def _(db):
    await db.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
    doc = {"a": [1, None, "ü"]}
    await db.execute("UPDATE a_item SET doc = $2 WHERE id = $1", uuid.UUID(int=1), doc)
    same(await db.fetchval("SELECT doc FROM a_item WHERE id = $1", uuid.UUID(int=1)), doc)


@check("types")
@with_connection
async def _(db):
    values = [datetime.date(2024, 2, 29), decimal.Decimal("1.50"), True, -(2**63), 1.5, datetime.timedelta(days=1)]
    row = await db.fetchrow("SELECT $1::date, $2::numeric, $3::bool, $4::int8, $5::float8, $6::interval", *values)
    same(list(row), values)
    same(await db.fetchval("SELECT $1::int4range", asyncpg.Range(1, 5)), asyncpg.Range(1, 5))


@check("errors")
@with_connection
async def _(db):
    await fails_later("42601", db.execute("SELEC 1"))
    await fails_later("23505", db.execute("INSERT INTO a_item (id, name) VALUES ($1, 'x')", uuid.UUID(int=1)))
    await fails_later("23502", db.execute("INSERT INTO a_item (id) VALUES ($1)", uuid.UUID(int=99)))
    await fails_later("22012", db.fetch("SELECT 1 / $1::int", 0))
    same(await db.fetchval("SELECT 1"), 1)


@check("cursor")
@with_connection
async def _(db):
    async with db.transaction():
        cursor = await db.cursor("SELECT g FROM generate_series(1, 100) AS g")
        same([row[0] for row in await cursor.fetch(10)], list(range(1, 11)))
        same(await cursor.forward(50), 50)
        same((await cursor.fetchrow())[0], 61)
        rows = [row async for row in db.cursor("SELECT id FROM a_wide", prefetch=100)]
        same(len([row for row in rows if 0 <= row[0] < 1000]), 1000)


@check("pool")
async def _():
    async with asyncpg.create_pool(min_size=2, max_size=4, ssl=False) as pool:

        async def one(number):
            async with pool.acquire() as db:
                await db.execute("SET TimeZone = 'Asia/Kolkata'")
                return await db.fetchval("SELECT $1::int", number)

        same(await asyncio.gather(*map(one, range(20))), list(range(20)))
        async with pool.acquire() as db:
            same(await db.fetchval("SHOW TimeZone"), "UTC")


@check("cancel")
@with_connection
async def _(db):
    try:
        await db.execute("SELECT pg_sleep(20)", timeout=0.3)
        raise AssertionError("wrong: no timeout")
    except asyncio.TimeoutError:
        pass
    same(await db.fetchval("SELECT 1"), 1)


@check("statement_timeout")
@with_connection
async def _(db):
    await db.execute("SET statement_timeout = '200ms'")
    await fails_later("57014", db.execute("SELECT pg_sleep(20)"))


@check("advisory locks")
@with_connection
async def _(db):
    same(await db.fetchval("SELECT pg_try_advisory_lock(7)"), True)
    other = await connect()
    same(await other.fetchval("SELECT pg_try_advisory_lock(7)"), False)
    await other.close()


if __name__ == "__main__":
    main()
