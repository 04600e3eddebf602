//! What reads an operator's file, for the fuzz target.
//!
//! The function takes any bytes, returns, and asserts what must hold of what was read. `fuzz/README.md` says how it
//! is run; here it is run over its corpus.

use std::io::Write;
use std::path::PathBuf;

use crate::config::{NodeConfig, Overrides};
use crate::demo::parse_facts;

/// A node's configuration file, and the file of a demo's numbers.
pub fn config_file(bytes: &[u8]) {
    thread_local! {
        /// A secret that no file of the input's choice holds.
        static SECRET: tempfile::NamedTempFile = {
            let mut file = tempfile::NamedTempFile::new().expect("a file for the secret");
            file.write_all(b"0123456789abcdef0123456789abcdef").expect("the secret is written");
            file
        };
    }
    let text = String::from_utf8_lossy(bytes);
    let overrides = Overrides {
        secret_file: Some(SECRET.with(|file| file.path().to_owned())),
        ..Overrides::default()
    };
    let path = PathBuf::from("/nowhere/node.toml");
    match NodeConfig::from_text(&path, &text, &overrides) {
        Ok(config) => {
            config.shard.validate().expect("a node's configuration is valid");
            assert!(
                config.shard.nodes.contains_key(&config.shard.node),
                "it is no node of the cluster"
            );
            assert!(config.sql.limits.max_client_connections > 0);
        }
        Err(error) => {
            let words = crate::cli::whole(&error);
            assert!(words.contains("node.toml"), "the error names no place: {words}");
        }
    }
    if let Ok(facts) = parse_facts(&text) {
        assert_eq!(
            parse_facts(&toml::to_string(&facts).expect("numbers can be written")),
            Ok(facts)
        );
    }
}

#[cfg(test)]
mod tests {
    use replay::replay;

    #[test]
    fn config_file() {
        replay("config_file", super::config_file);
    }
}
