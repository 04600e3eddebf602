//! tokio-postgres: pipelines by itself, prepares everything, binary results.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures::{FutureExt, SinkExt, StreamExt, pin_mut};
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::{Check, fails, same};
use crate::Result;
use crate::cluster::connect_to;

pub(super) fn checks<'a>(server: SocketAddr) -> Vec<Check<'a>> {
    vec![
        ("connect", connect(server).boxed()),
        ("schema", schema(server).boxed()),
        ("migrations", migrations(server).boxed()),
        ("crud", crud(server).boxed()),
        ("transactions", transactions(server).boxed()),
        ("prepared statements", prepared(server).boxed()),
        ("a prepared statement survives DDL", after_ddl(server).boxed()),
        ("pipelining", pipelining(server).boxed()),
        ("portals", portals(server).boxed()),
        ("COPY in", copy_in(server).boxed()),
        ("COPY in, binary", copy_in_binary(server).boxed()),
        ("COPY out", copy_out(server).boxed()),
        ("large values", large_values(server).boxed()),
        ("arrays and JSON", arrays_and_json(server).boxed()),
        ("errors", errors(server).boxed()),
        ("cancel", cancel(server).boxed()),
        ("statement_timeout", statement_timeout(server).boxed()),
        (
            "generated columns' names in RowDescription",
            columns(server).boxed(),
        ),
        ("ORDER BY over all rows", ordered(server).boxed()),
    ]
}

async fn connect(server: SocketAddr) -> Result<()> {
    let client = connect_to(server).await?;
    same(client.query_one("SELECT 1 + 1", &[]).await?.get(0), 2)
}

async fn schema(server: SocketAddr) -> Result<()> {
    let client = connect_to(server).await?;
    client.batch_execute("DROP TABLE IF EXISTS t_item").await?;
    let sql = "CREATE TABLE t_item (id bigint PRIMARY KEY, name text NOT NULL, tags text[], doc jsonb, data bytea); \
               CREATE INDEX t_item_name ON t_item (name)";
    Ok(client.batch_execute(sql).await?)
}

async fn migrations(server: SocketAddr) -> Result<()> {
    let mut client = connect_to(server).await?;
    let step = client.transaction().await?;
    step.batch_execute("ALTER TABLE t_item ADD COLUMN stock integer NOT NULL DEFAULT 0")
        .await?;
    step.execute(
        "INSERT INTO t_item (id, name) VALUES (-1, 'by the migration')",
        &[],
    )
    .await?;
    step.commit().await?;
    let step = client.transaction().await?;
    step.batch_execute("ALTER TABLE t_item ADD COLUMN lost integer")
        .await?;
    step.rollback().await?;
    fails(
        "42703",
        client.query("SELECT lost FROM t_item WHERE id = 1", &[]).await,
    )
}

async fn crud(server: SocketAddr) -> Result<()> {
    let client = connect_to(server).await?;
    for id in 1..=20_i64 {
        let done = client
            .execute(
                "INSERT INTO t_item (id, name) VALUES ($1, $2)",
                &[&id, &format!("item {id}")],
            )
            .await?;
        same(done, 1)?;
    }
    same(
        client
            .query_one("SELECT count(*) FROM t_item WHERE id > 0", &[])
            .await?
            .get(0),
        20_i64,
    )?;
    let rows = client
        .query("SELECT id, name FROM t_item WHERE id > 0", &[])
        .await?;
    let mut ids: Vec<i64> = rows.iter().map(|row| row.get("id")).collect();
    ids.sort_unstable();
    same(ids, (1..=20).collect())?;
    same(
        client
            .execute("UPDATE t_item SET stock = 2 WHERE id > $1", &[&15_i64])
            .await?,
        5,
    )?;
    same(
        client
            .execute("DELETE FROM t_item WHERE id = ANY($1)", &[&vec![19_i64, 20]])
            .await?,
        2,
    )
}

async fn transactions(server: SocketAddr) -> Result<()> {
    let mut client = connect_to(server).await?;
    let mut transaction = client.transaction().await?;
    for id in 1..=4_i64 {
        transaction
            .execute("UPDATE t_item SET name = 'moved' WHERE id = $1", &[&id])
            .await?;
    }
    let inner = transaction.savepoint("here").await?;
    inner
        .execute("UPDATE t_item SET name = 'lost' WHERE id = 2", &[])
        .await?;
    inner.rollback().await?;
    transaction.commit().await?;
    let count = "SELECT count(*) FROM t_item WHERE name = 'moved'";
    same(client.query_one(count, &[]).await?.get(0), 4_i64)?;
    let dropped = client.transaction().await?;
    dropped.execute("UPDATE t_item SET name = 'gone'", &[]).await?;
    drop(dropped);
    same(client.query_one(count, &[]).await?.get(0), 4_i64)
}

async fn prepared(server: SocketAddr) -> Result<()> {
    let client = connect_to(server).await?;
    let statement = client
        .prepare("SELECT id, name FROM t_item WHERE id = $1")
        .await?;
    same(statement.params().to_vec(), vec![Type::INT8])?;
    for id in 1..=10_i64 {
        same(client.query_one(&statement, &[&id]).await?.get(0), id)?;
    }
    let typed = client
        .prepare_typed("SELECT $1::text || 'x'", &[Type::TEXT])
        .await?;
    same(client.query_one(&typed, &[&"a"]).await?.get(0), "ax".to_owned())
}

async fn after_ddl(server: SocketAddr) -> Result<()> {
    let (client, other) = (connect_to(server).await?, connect_to(server).await?);
    let statement = client
        .prepare("SELECT id, name FROM t_item WHERE id = $1")
        .await?;
    client.query_one(&statement, &[&1_i64]).await?;
    other
        .batch_execute("ALTER TABLE t_item ADD COLUMN later text")
        .await?;
    same(client.query_one(&statement, &[&1_i64]).await?.get(0), 1_i64)
}

async fn pipelining(server: SocketAddr) -> Result<()> {
    let client = connect_to(server).await?;
    let statement = client
        .prepare("UPDATE t_item SET stock = stock + 1 WHERE id = $1 RETURNING id")
        .await?;
    let ids: Vec<i64> = (1..=10).collect();
    let parameters: Vec<[&(dyn ToSql + Sync); 1]> = ids.iter().map(|id| [id as _]).collect();
    let asked = parameters.iter().map(|id| client.query_one(&statement, id));
    for (id, row) in ids.iter().zip(futures::future::try_join_all(asked).await?) {
        same(row.get::<_, i64>(0), *id)?;
    }
    let (one, two) = tokio::join!(
        client.query("SELECT 1 / 0", &[]),
        client.query_one("SELECT 2", &[])
    );
    fails("22012", one)?;
    same(two?.get(0), 2)
}

async fn portals(server: SocketAddr) -> Result<()> {
    let mut client = connect_to(server).await?;
    let transaction = client.transaction().await?;
    let portal = transaction
        .bind("SELECT g FROM generate_series(1, 100) AS g", &[])
        .await?;
    same(transaction.query_portal(&portal, 10).await?.len(), 10)?;
    same(transaction.query_portal(&portal, 0).await?.len(), 90)?;
    let all = transaction.bind("SELECT id FROM t_item", &[]).await?;
    let (one, two) = (
        transaction.query_portal(&all, 5).await?,
        transaction.query_portal(&all, 0).await?,
    );
    same(one.len(), 5)?;
    same(one.len() + two.len(), 19)
}

async fn copy_in(server: SocketAddr) -> Result<()> {
    let client = connect_to(server).await?;
    let sink = client.copy_in("COPY t_item (id, name) FROM STDIN").await?;
    pin_mut!(sink);
    for id in 1000..2000 {
        sink.send(bytes::Bytes::from(format!("{id}\tcopied\\t{id}\n")))
            .await?;
    }
    same(sink.finish().await?, 1000)?;
    let row = client
        .query_one("SELECT name FROM t_item WHERE id = 1999", &[])
        .await?;
    same(row.get(0), "copied\t1999".to_owned())
}

async fn copy_in_binary(server: SocketAddr) -> Result<()> {
    let client = connect_to(server).await?;
    let sink = client
        .copy_in("COPY t_item (id, name) FROM STDIN (FORMAT binary)")
        .await?;
    let writer = BinaryCopyInWriter::new(sink, &[Type::INT8, Type::TEXT]);
    pin_mut!(writer);
    for id in 2000..2100_i64 {
        writer.as_mut().write(&[&id, &"binary"]).await?;
    }
    same(writer.finish().await?, 100)
}

async fn copy_out(server: SocketAddr) -> Result<()> {
    let client = connect_to(server).await?;
    let rows = client.copy_out("COPY t_item (id) TO STDOUT").await?;
    pin_mut!(rows);
    let mut copied = 0;
    while let Some(piece) = rows.next().await {
        let text = String::from_utf8(piece?.to_vec())?;
        copied += text
            .lines()
            .filter(|line| line.starts_with('1') && line.len() == 4)
            .count();
    }
    same(copied, 1000)
}

async fn large_values(server: SocketAddr) -> Result<()> {
    let client = connect_to(server).await?;
    let data: Vec<u8> = (0..5_000_000_u32)
        .map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[1])
        .collect();
    for id in 1..=3_i64 {
        client
            .execute("UPDATE t_item SET data = $2 WHERE id = $1", &[&id, &data])
            .await?;
        let row = client
            .query_one("SELECT data FROM t_item WHERE id = $1", &[&id])
            .await?;
        same(row.get::<_, Vec<u8>>(0) == data, true)?;
    }
    Ok(())
}

async fn arrays_and_json(server: SocketAddr) -> Result<()> {
    let client = connect_to(server).await?;
    let tags = vec![Some("a".to_owned()), None, Some("b \"c\"".to_owned())];
    client
        .execute("UPDATE t_item SET tags = $1 WHERE id = 4", &[&tags])
        .await?;
    let row = client
        .query_one("SELECT tags FROM t_item WHERE id = 4", &[])
        .await?;
    same(row.get::<_, Vec<Option<String>>>(0), tags)?;
    let doc = r#"{"n": [1, null, "ü"]}"#;
    client
        .execute("UPDATE t_item SET doc = $1::text::jsonb WHERE id = 5", &[&doc])
        .await?;
    let row = client
        .query_one("SELECT doc->'n'->>2 FROM t_item WHERE doc @> '{\"n\": [1]}'", &[])
        .await?;
    same(row.get(0), "ü".to_owned())
}

async fn errors(server: SocketAddr) -> Result<()> {
    let mut client = connect_to(server).await?;
    fails("42601", client.batch_execute("SELEC 1").await)?;
    fails(
        "23505",
        client
            .execute("INSERT INTO t_item (id, name) VALUES (1, 'x')", &[])
            .await,
    )?;
    fails(
        "23502",
        client
            .execute("INSERT INTO t_item (id) VALUES ($1)", &[&-5_i64])
            .await,
    )?;
    let transaction = client.transaction().await?;
    fails("22012", transaction.query("SELECT 1 / 0", &[]).await)?;
    fails("25P02", transaction.query("SELECT 1", &[]).await)?;
    transaction.rollback().await?;
    same(client.query_one("SELECT 1", &[]).await?.get(0), 1)
}

async fn cancel(server: SocketAddr) -> Result<()> {
    let client = connect_to(server).await?;
    let (token, began) = (client.cancel_token(), Instant::now());
    let later = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        token.cancel_query(NoTls).await
    };
    let (slept, cancelled) = tokio::join!(client.execute("SELECT pg_sleep(20)", &[]), later);
    cancelled?;
    fails("57014", slept)?;
    same(began.elapsed() < Duration::from_secs(10), true)?;
    same(client.query_one("SELECT 1", &[]).await?.get(0), 1)
}

async fn statement_timeout(server: SocketAddr) -> Result<()> {
    let client = connect_to(server).await?;
    client.batch_execute("SET statement_timeout = '200ms'").await?;
    fails("57014", client.execute("SELECT pg_sleep(20)", &[]).await)
}

async fn columns(server: SocketAddr) -> Result<()> {
    let client: Client = connect_to(server).await?;
    let said = client
        .simple_query("SELECT id AS key, name FROM t_item WHERE id = 3")
        .await?;
    let found = said.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(
            row.columns()
                .iter()
                .map(|c| c.name().to_owned())
                .collect::<Vec<_>>(),
        ),
        _ => None,
    });
    same(found, Some(vec!["key".to_owned(), "name".to_owned()]))
}

async fn ordered(server: SocketAddr) -> Result<()> {
    let client = connect_to(server).await?;
    let rows = client
        .query("SELECT id FROM t_item WHERE id > 0 ORDER BY id LIMIT 2", &[])
        .await?;
    same(rows.iter().map(|row| row.get(0)).collect(), vec![1_i64, 2])
}
