//! The tables' rows, as `tpchgen` makes them, by COPY.

use std::collections::HashSet;
use std::fmt::Display;

use bytes::{BufMut, Bytes, BytesMut};
use futures::SinkExt;
use tokio_postgres::Client;
use tpchgen::distribution::Distributions;
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator, PartSuppGenerator,
    RegionGenerator, SupplierGenerator,
};
use tpchgen::text::TextPool;

use crate::Result;

/// Bytes of the pool from which comments are cut. The specification has 300 MiB, which take longer to make than all the rest
/// here; comments only decide what LIKE finds.
const POOL: i32 = 4 << 20;
/// Bytes of a CopyData message, about.
const PIECE: usize = 1 << 16;

/// Fills all tables.
pub(super) async fn load(client: &Client, scale: f64) -> Result<()> {
    let words = Distributions::static_default();
    let pool = TextPool::new(POOL, words);
    let nations = NationGenerator::new_with_distributions_and_text_pool(words, &pool);
    let regions = RegionGenerator::new_with_distributions_and_text_pool(words, &pool);
    copy(client, "nation", nations.iter()).await?;
    copy(client, "region", regions.iter()).await?;
    let suppliers = SupplierGenerator::new_with_distributions_and_text_pool(scale, 1, 1, words, &pool);
    copy(client, "supplier", suppliers.iter()).await?;
    let customers = CustomerGenerator::new_with_distributions_and_text_pool(scale, 1, 1, words, &pool);
    copy(client, "customer", customers.iter()).await?;
    let parts = PartGenerator::new_with_distributions_and_text_pool(scale, 1, 1, words, &pool);
    copy(client, "part", parts.iter()).await?;
    let supplies = PartSuppGenerator::new_with_text_pool(scale, 1, 1, &pool);
    // Below a scale of 0.008 the specification's formula gives some parts the same supplier twice.
    let mut seen = HashSet::new();
    let once = supplies
        .iter()
        .filter(|row| seen.insert((row.ps_partkey, row.ps_suppkey)));
    copy(client, "partsupp", once).await?;
    let orders = OrderGenerator::new_with_distributions_and_text_pool(scale, 1, 1, words, &pool);
    copy(client, "orders", orders.iter()).await?;
    let items = LineItemGenerator::new_with_distributions_and_text_pool(scale, 1, 1, words, &pool);
    copy(client, "lineitem", items.iter()).await
}

/// Rows in the specification's format: a bar ends each value, also the last.
async fn copy(client: &Client, table: &str, rows: impl Iterator<Item = impl Display>) -> Result<()> {
    let sql = format!("COPY {table} FROM STDIN WITH (DELIMITER '|')");
    let mut sink = std::pin::pin!(client.copy_in::<_, Bytes>(&sql).await?);
    let (mut piece, mut sent) = (BytesMut::new(), 0);
    for row in rows {
        let row = row.to_string();
        piece.put_slice(row.strip_suffix('|').unwrap_or(&row).as_bytes());
        piece.put_u8(b'\n');
        sent += 1;
        if piece.len() >= PIECE {
            sink.send(piece.split().freeze()).await?;
        }
    }
    sink.send(piece.freeze()).await?;
    let stored = sink.finish().await?;
    if stored != sent {
        return Err(format!("{table} has {stored} rows of {sent}").into());
    }
    Ok(())
}
