//! The small files beside a replica's data, and what PostgreSQL's tools print.

use std::fmt::Debug;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::control_data;
use super::files::{IdentityFile, RebuildFile, decode, encode};
use crate::replica::Life;

/// `replica.json`, `rebuilding`, `life.json`, and the output of `pg_controldata`.
pub fn replica_files(bytes: &[u8]) {
    json::<IdentityFile>(bytes);
    json::<RebuildFile>(bytes);
    json::<Life>(bytes);
    if let Ok(control) = control_data::parse(&String::from_utf8_lossy(bytes)) {
        for position in [control.redo, control.checkpoint, control.min_recovery_end] {
            assert_eq!(position.to_string().parse(), Ok(position));
        }
    }
}

/// What was read and written again is read as the same.
fn json<T: Serialize + DeserializeOwned + Debug>(bytes: &[u8]) {
    let path = Path::new("file");
    if let Ok(value) = decode::<T>(bytes, path) {
        let again = encode(&value, path).expect("what was read can be written");
        let again: T = decode(&again, path).expect("what was written can be read");
        assert_eq!(format!("{again:?}"), format!("{value:?}"));
    }
}
