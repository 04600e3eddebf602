//! Scenarios against a real PostgreSQL.
