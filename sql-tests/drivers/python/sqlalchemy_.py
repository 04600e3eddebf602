"""SQLAlchemy's core and ORM, over psycopg 3."""

import datetime
import decimal
import uuid

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from checks import check, fails, main, same

engine = sa.create_engine("postgresql+psycopg://", pool_size=2)


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "s_customer"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    name: Mapped[str]
    tags: Mapped[list[str] | None] = mapped_column(ARRAY(sa.Text))
    doc: Mapped[dict | None] = mapped_column(JSONB)
    photo: Mapped[bytes | None]


class Order(Base):
    """Rows of a customer are in the customer's group: the customer comes first in the key."""

    __tablename__ = "s_order"
    customer_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    price: Mapped[decimal.Decimal] = mapped_column(sa.Numeric(10, 2))
    made: Mapped[datetime.datetime] = mapped_column(sa.DateTime(timezone=True))


class Note(Base):
    __tablename__ = "s_note"
    customer_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("s_customer.id"), primary_key=True)
    text: Mapped[str]


class Numbered(Base):
    __tablename__ = "s_numbered"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


TABLES = [Customer.__table__, Order.__table__]
OF_CUSTOMER = Order.customer_id == Customer.id
IDS = [uuid.UUID(int=number) for number in range(1, 11)]
NOON = datetime.datetime(2024, 1, 1, 12, tzinfo=datetime.timezone.utc)


@check("connect")
def _():
    with engine.connect() as db:
        same(db.execute(sa.text("SELECT 1 + 1")).scalar(), 2)
        same(engine.dialect.server_version_info >= (14,), True)


@check("schema")
def _():
    Base.metadata.drop_all(engine, tables=[*TABLES, Note.__table__])
    Base.metadata.create_all(engine, tables=TABLES)
    found = sa.inspect(engine)
    same([column["name"] for column in found.get_columns("s_order")], ["customer_id", "number", "price", "made"])
    same(found.get_pk_constraint("s_order")["constrained_columns"], ["customer_id", "number"])
    same(found.has_table("s_nosuch"), False)


@check("migrations")
def _():
    with engine.begin() as db:
        db.execute(sa.text("ALTER TABLE s_customer ADD COLUMN since date"))
        db.execute(sa.schema.CreateIndex(sa.Index("s_customer_name", Customer.name)))
    same("since" in [column["name"] for column in sa.inspect(engine).get_columns("s_customer")], True)
    same([index["name"] for index in sa.inspect(engine).get_indexes("s_customer")], ["s_customer_name"])


@check("crud")
def _():
    with Session(engine) as session:
        session.add_all(Customer(id=key, name=f"customer {key.int}") for key in IDS)
        session.flush()
        session.add_all(Order(customer_id=key, number=number, price=number, made=NOON) for key in IDS for number in (1, 2, 3))
        session.commit()
    with Session(engine) as session:
        ada = session.get(Customer, IDS[0])
        ada.name = "Ada"
        session.delete(session.get(Order, (IDS[1], 3)))
        session.commit()
        same(session.scalar(sa.select(sa.func.count()).select_from(Order)), 29)
        same(session.execute(sa.update(Order).where(Order.number == 1).values(price=5)).rowcount, 10)
        session.commit()
    with Session(engine) as session:
        same(session.get(Customer, IDS[0]).name, "Ada")
        orders = session.scalars(sa.select(Order).where(Order.customer_id == IDS[0]).order_by(Order.number)).all()
        same([(order.number, order.price, order.made) for order in orders], [(1, 5, NOON), (2, 2, NOON), (3, 3, NOON)])


@check("a join of rows with one shard key")
def _():
    with Session(engine) as session:
        joined = sa.select(Customer.name, sa.func.sum(Order.price)).join(Order, OF_CUSTOMER).where(Customer.id == IDS[0]).group_by(Customer.name)
        same(session.execute(joined).one(), ("Ada", 10))


@check("transactions")
def _():
    with Session(engine) as session:
        for key in IDS[:4]:
            session.get(Customer, key).tags = ["a"]
        with session.begin_nested() as nested:
            session.get(Customer, IDS[0]).tags = ["lost"]
            session.flush()
            nested.rollback()
        session.commit()
    with Session(engine) as session:
        same([session.get(Customer, key).tags for key in IDS[:4]], [["a"]] * 4)


@check("upsert and RETURNING")
def _():
    with engine.begin() as db:
        rows = [{"id": key, "name": "upserted"} for key in IDS[5:]]
        statement = insert(Customer).values(rows)
        statement = statement.on_conflict_do_update(index_elements=["id"], set_={"name": statement.excluded.name})
        same(len(db.execute(statement.returning(Customer.id)).all()), 5)


@check("arrays, JSON and large values")
def _():
    with Session(engine) as session:
        customer = session.get(Customer, IDS[2])
        customer.tags, customer.doc, customer.photo = ["x", 'y "z"'], {"a": [1, None]}, bytes(range(256)) * 8000
        session.commit()
    with Session(engine) as session:
        customer = session.get(Customer, IDS[2])
        same((customer.tags, customer.doc, len(customer.photo)), (["x", 'y "z"'], {"a": [1, None]}, 2_048_000))
        same(session.scalar(sa.select(Customer.doc["a"][0].as_integer()).where(Customer.id == IDS[2])), 1)


@check("errors")
def _():
    def twice():
        with engine.begin() as db:
            db.execute(sa.insert(Customer).values(id=IDS[0], name="twice"))

    fails("23505", twice)
    fails("22P02", lambda: engine.connect().execute(sa.text("SELECT id FROM s_customer WHERE id = 'none'")))


@check("isolation levels")
def _():
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as db:
        same(db.execute(sa.text("SHOW transaction_isolation")).scalar(), "repeatable read")
        same(db.scalar(sa.select(sa.func.count()).select_from(Customer)), 10)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
        same(db.scalar(sa.select(sa.func.count()).select_from(Customer)), 10)


@check("streamed results")
def _():
    with engine.connect() as db:
        rows = db.execution_options(yield_per=5).execute(sa.text("SELECT g FROM generate_series(1, 30) AS g"))
        same([row[0] for row in rows], list(range(1, 31)))


@check("ORDER BY and LIMIT over all rows")
def _():
    with Session(engine) as session:
        same(session.scalars(sa.select(Customer.id).order_by(Customer.id).limit(3)).all(), IDS[:3])


@check("a join of all rows")
def _():
    with Session(engine) as session:
        same(len(session.execute(sa.select(Customer.name, Order.number).join(Order, OF_CUSTOMER)).all()), 29)


@check("keys from a sequence")
def _():
    Base.metadata.drop_all(engine, tables=[Numbered.__table__])
    Base.metadata.create_all(engine, tables=[Numbered.__table__])
    with Session(engine) as session:
        rows = [Numbered(name="a"), Numbered(name="b")]
        session.add_all(rows)
        session.commit()
        same(len({row.id for row in rows}), 2)


@check("a foreign key from shard key to shard key")
def _():
    Base.metadata.create_all(engine, tables=[Note.__table__])
    same(sa.inspect(engine).get_foreign_keys("s_note")[0]["referred_table"], "s_customer")

    def orphan():
        with engine.begin() as db:
            db.execute(sa.insert(Note).values(customer_id=uuid.UUID(int=99), text="nobody's"))

    fails("23503", orphan)


if __name__ == "__main__":
    main()
