//! sqlx: a pool, its own cache of prepared statements, migrations from files.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use futures::{FutureExt, TryStreamExt};
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgSslMode};
use sqlx::types::{Json, Uuid};
use sqlx::{Connection, Executor, Row};

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Failure>;
type Check = Pin<Box<dyn Future<Output = Result<()>>>>;

/// How long a check may take.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() {
    for (name, check) in checks() {
        let outcome = match tokio::time::timeout(PATIENCE, check).await {
            Ok(Ok(())) => "ok".to_owned(),
            Ok(Err(error)) => words(&error),
            Err(_) => format!("wrong: not done within {PATIENCE:?}"),
        };
        let outcome = outcome.lines().next().unwrap_or_default().replace('\t', " ");
        println!("{name}\t{outcome}");
    }
}

fn checks() -> Vec<(&'static str, Check)> {
    vec![
        ("connect", connect().boxed_local()),
        (
            "migrations, with a lock",
            migrations(Locking::ByAdvisoryLock).boxed_local(),
        ),
        ("migrations", migrations(Locking::None).boxed_local()),
        ("crud", crud().boxed_local()),
        ("transactions", transactions().boxed_local()),
        ("prepared statements", prepared().boxed_local()),
        ("a prepared statement survives DDL", after_ddl().boxed_local()),
        ("streams of rows", streams().boxed_local()),
        ("COPY in", copy_in().boxed_local()),
        ("COPY out", copy_out().boxed_local()),
        ("large values", large_values().boxed_local()),
        ("arrays and JSON", arrays_and_json().boxed_local()),
        ("errors", errors().boxed_local()),
        ("pool", pool_of_four().boxed_local()),
        ("a dropped query", dropped().boxed_local()),
        ("statement_timeout", statement_timeout().boxed_local()),
        ("ORDER BY over all rows", ordered().boxed_local()),
    ]
}

/// An SQLSTATE and its words, or what a check found wrong.
fn words(error: &Failure) -> String {
    match state(error) {
        Some((state, words)) => format!("{state} {words}"),
        None => format!("wrong: {error}"),
    }
}

/// The SQLSTATE and the message of a server's error.
fn state(error: &Failure) -> Option<(String, String)> {
    let told = error.downcast_ref::<sqlx::Error>()?.as_database_error()?;
    Some((told.code()?.into_owned(), told.message().to_owned()))
}

/// Fails where two things are not the same.
fn same<T: PartialEq + std::fmt::Debug>(found: T, wanted: T) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    Err(format!("{found:?} instead of {wanted:?}").into())
}

/// Fails where something does not fail with this SQLSTATE.
fn fails<T, E: Into<Failure>>(wanted: &str, done: std::result::Result<T, E>) -> Result<()> {
    let Err(error) = done else {
        return Err(format!("it did not fail with {wanted}").into());
    };
    let error = error.into();
    match state(&error) {
        Some((found, _)) if found == wanted => Ok(()),
        _ => Err(error),
    }
}

fn options() -> PgConnectOptions {
    // PGHOST, PGPORT, PGUSER and PGDATABASE say where.
    PgConnectOptions::new().ssl_mode(PgSslMode::Disable)
}

async fn pool() -> Result<PgPool> {
    let pool = PgPoolOptions::new()
        .max_connections(4)
        .acquire_timeout(Duration::from_secs(10));
    Ok(pool.connect_with(options()).await?)
}

fn key(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

async fn connect() -> Result<()> {
    let mut db = sqlx::PgConnection::connect_with(&options()).await?;
    db.ping().await?;
    same(sqlx::query_scalar("SELECT 1 + 1").fetch_one(&mut db).await?, 2)?;
    Ok(db.close().await?)
}

/// What keeps two programs from migrating at the same time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Locking {
    /// sqlx' default.
    ByAdvisoryLock,
    /// Nothing.
    None,
}

async fn migrations(locking: Locking) -> Result<()> {
    let pool = pool().await?;
    pool.execute("DROP TABLE IF EXISTS x_item; DROP TABLE IF EXISTS _sqlx_migrations")
        .await?;
    let mut migrator = Migrator::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations")).await?;
    migrator.set_locking(locking == Locking::ByAdvisoryLock);
    for _ in 0..2 {
        migrator.run(&pool).await.map_err(|error| match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => Failure::from(error),
            other => other.into(),
        })?;
    }
    let count = sqlx::query_scalar("SELECT count(*) FROM _sqlx_migrations")
        .fetch_one(&pool)
        .await?;
    same::<i64>(count, 2)
}

/// What a migration makes, where it could not.
async fn schema(pool: &PgPool) -> Result<()> {
    for sql in [
        include_str!("../migrations/1_items.sql"),
        include_str!("../migrations/2_tags.sql"),
    ] {
        pool.execute(sql).await?;
    }
    Ok(())
}

async fn crud() -> Result<()> {
    let pool = pool().await?;
    pool.execute("DROP TABLE IF EXISTS x_item").await?;
    schema(&pool).await?;
    for number in 1..=20 {
        let insert = sqlx::query("INSERT INTO x_item (id, name) VALUES ($1, $2)");
        let done = insert
            .bind(key(number))
            .bind(format!("item {number}"))
            .execute(&pool)
            .await?;
        same(done.rows_affected(), 1)?;
    }
    same::<i64>(
        sqlx::query_scalar("SELECT count(*) FROM x_item")
            .fetch_one(&pool)
            .await?,
        20,
    )?;
    let rows: Vec<(Uuid, String)> = sqlx::query_as("SELECT id, name FROM x_item")
        .fetch_all(&pool)
        .await?;
    same(rows.len(), 20)?;
    let updated = sqlx::query("UPDATE x_item SET price = 7 WHERE name <> $1")
        .bind("item 3")
        .execute(&pool)
        .await?;
    same(updated.rows_affected(), 19)?;
    let gone: Option<Uuid> = sqlx::query_scalar("DELETE FROM x_item WHERE id = $1 RETURNING id")
        .bind(key(20))
        .fetch_optional(&pool)
        .await?;
    same(gone, Some(key(20)))
}

async fn transactions() -> Result<()> {
    let pool = pool().await?;
    let mut transaction = pool.begin().await?;
    for number in 1..=4 {
        let update = sqlx::query("UPDATE x_item SET price = 10 WHERE id = $1").bind(key(number));
        update.execute(&mut *transaction).await?;
    }
    let mut inner = transaction.begin().await?;
    sqlx::query("UPDATE x_item SET price = 99 WHERE id = $1")
        .bind(key(2))
        .execute(&mut *inner)
        .await?;
    inner.rollback().await?;
    transaction.commit().await?;
    let count = "SELECT count(*) FROM x_item WHERE price = 10";
    same::<i64>(sqlx::query_scalar(count).fetch_one(&pool).await?, 4)?;
    let mut dropped = pool.begin().await?;
    sqlx::query("UPDATE x_item SET price = 0")
        .execute(&mut *dropped)
        .await?;
    drop(dropped);
    same::<i64>(sqlx::query_scalar(count).fetch_one(&pool).await?, 4)
}

async fn prepared() -> Result<()> {
    // More statements than the cache keeps: it closes those that were not used for long.
    let mut db = sqlx::PgConnection::connect_with(&options().statement_cache_capacity(5)).await?;
    for number in 1..=19_i64 {
        let sql = format!("SELECT id, {number}::int8 AS number FROM x_item WHERE id = $1");
        let row = sqlx::query(&sql)
            .bind(key(number.unsigned_abs().into()))
            .fetch_one(&mut db)
            .await?;
        same(row.get::<i64, _>("number"), number)?;
    }
    Ok(())
}

async fn after_ddl() -> Result<()> {
    let mut db = sqlx::PgConnection::connect_with(&options()).await?;
    for round in 0..2 {
        if round == 1 {
            pool()
                .await?
                .execute("ALTER TABLE x_item ADD COLUMN later text")
                .await?;
        }
        let name: String = sqlx::query_scalar("SELECT name FROM x_item WHERE id = $1")
            .bind(key(1))
            .fetch_one(&mut db)
            .await?;
        same(name, "item 1".to_owned())?;
    }
    Ok(())
}

async fn streams() -> Result<()> {
    let pool = pool().await?;
    let mut rows = sqlx::query("SELECT name FROM x_item").fetch(&pool);
    let mut count = 0;
    while let Some(row) = rows.try_next().await? {
        count += usize::from(row.get::<String, _>(0).starts_with("item"));
    }
    same(count, 19)
}

async fn copy_in() -> Result<()> {
    let mut db = sqlx::PgConnection::connect_with(&options()).await?;
    let mut copy = db.copy_in_raw("COPY x_item (id, name) FROM STDIN").await?;
    for number in 1000..2000_u128 {
        copy.send(format!("{}\tcopied\n", key(number)).as_bytes()).await?;
    }
    same(copy.finish().await?, 1000)
}

async fn copy_out() -> Result<()> {
    let mut db = sqlx::PgConnection::connect_with(&options()).await?;
    let mut pieces = db.copy_out_raw("COPY x_item (name) TO STDOUT").await?;
    let mut rows = 0;
    while let Some(piece) = pieces.try_next().await? {
        rows += String::from_utf8_lossy(&piece).matches("copied").count();
    }
    same(rows, 1000)
}

async fn large_values() -> Result<()> {
    let pool = pool().await?;
    let data: Vec<u8> = (0..5_000_000_u32).map(|at| at.to_le_bytes()[0]).collect();
    for number in 1..=3 {
        let update = sqlx::query("UPDATE x_item SET data = $2 WHERE id = $1")
            .bind(key(number))
            .bind(&data);
        update.execute(&pool).await?;
        let found: Vec<u8> = sqlx::query_scalar("SELECT data FROM x_item WHERE id = $1")
            .bind(key(number))
            .fetch_one(&pool)
            .await?;
        same(found == data, true)?;
    }
    Ok(())
}

async fn arrays_and_json() -> Result<()> {
    let pool = pool().await?;
    let tags = vec![Some("a".to_owned()), None];
    let doc = Json(serde_json::json!({"n": [1, null, "ü"]}));
    let update = sqlx::query("UPDATE x_item SET tags = $2, doc = $3 WHERE id = $1");
    update.bind(key(4)).bind(&tags).bind(&doc).execute(&pool).await?;
    let found: (Vec<Option<String>>, Json<serde_json::Value>) =
        sqlx::query_as("SELECT tags, doc FROM x_item WHERE id = $1")
            .bind(key(4))
            .fetch_one(&pool)
            .await?;
    same(found.0, tags)?;
    same(found.1.0, doc.0)
}

async fn errors() -> Result<()> {
    let pool = pool().await?;
    fails("42601", pool.execute("SELEC 1").await)?;
    let twice = sqlx::query("INSERT INTO x_item (id, name) VALUES ($1, 'x')")
        .bind(key(1))
        .execute(&pool)
        .await;
    let unique = twice.as_ref().err().and_then(|error| error.as_database_error());
    same(unique.and_then(|error| error.constraint()), Some("x_item_pkey"))?;
    fails("23505", twice)?;
    let mut transaction = pool.begin().await?;
    fails("22012", transaction.execute("SELECT 1 / 0").await)?;
    fails("25P02", transaction.execute("SELECT 1").await)?;
    transaction.rollback().await?;
    same(sqlx::query_scalar("SELECT 1").fetch_one(&pool).await?, 1)
}

async fn pool_of_four() -> Result<()> {
    let pool = pool().await?;
    let asked = (1..=40_u128).map(|number| {
        let pool = pool.clone();
        async move {
            let select = sqlx::query_scalar::<_, String>("SELECT name FROM x_item WHERE id = $1");
            select.bind(key(number % 10 + 1)).fetch_one(&pool).await
        }
    });
    same(futures::future::try_join_all(asked).await?.len(), 40)
}

/// A query that nobody waits for any more does not leave its answer to the next one.
async fn dropped() -> Result<()> {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect_with(options())
        .await?;
    let slow = sqlx::query("SELECT pg_sleep(1)").execute(&pool);
    let _ = tokio::time::timeout(Duration::from_millis(200), slow).await;
    same(sqlx::query_scalar("SELECT 7").fetch_one(&pool).await?, 7)
}

async fn statement_timeout() -> Result<()> {
    let pool = pool().await?;
    let mut db = pool.acquire().await?;
    db.execute("SET statement_timeout = '200ms'").await?;
    fails("57014", db.execute("SELECT pg_sleep(20)").await)
}

async fn ordered() -> Result<()> {
    let pool = pool().await?;
    let first: Uuid = sqlx::query_scalar("SELECT id FROM x_item ORDER BY id LIMIT 1")
        .fetch_one(&pool)
        .await?;
    same(first, key(1))
}
