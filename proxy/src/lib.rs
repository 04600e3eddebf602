//! What a client sees: the PostgreSQL protocol, SQL analysis, routing, pooling, merging.

pub mod analysis;
