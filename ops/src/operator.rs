//! What the console asks of the node: how the cluster is, what is configured, and to read that again.

use std::path::PathBuf;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use proxy::operations::{Operations, Reloaded, Setting};
use proxy::status::ClusterStatus;
use proxy::{Limits, ProxyConfig, Reload};
use shard::config::{LogConfig, Timing};
use tokio::sync::SetOnce;

use crate::config::{NodeConfig, Origin};
use crate::logging::Logging;
use crate::status::gather;

/// The node, as its console sees it.
#[derive(Debug)]
pub(crate) struct Operator {
    logging: Logging,
    /// What is in force.
    config: Mutex<NodeConfig>,
    /// The SQL port, once that is bound.
    port: SetOnce<Reload>,
    /// The connections between nodes, once there are some.
    between_nodes: SetOnce<shard::node::Reload>,
    /// Two configurations that are read at the same time are taken over one after the other.
    turn: tokio::sync::Mutex<()>,
}

impl Operator {
    pub(crate) fn new(config: NodeConfig, logging: Logging) -> Operator {
        Operator {
            logging,
            config: Mutex::new(config),
            port: SetOnce::new(),
            between_nodes: SetOnce::new(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// The SQL port is bound; the first call counts.
    pub(crate) fn serves(&self, port: Reload) {
        let _already_set = self.port.set(port);
    }

    /// The node has joined the others; the first call counts.
    pub(crate) fn joins(&self, between_nodes: shard::node::Reload) {
        let _already_set = self.between_nodes.set(between_nodes);
    }

    async fn read_again(&self) -> Result<Reloaded, String> {
        let origin = self.config.lock().origin.clone();
        let Some(Origin { path, overrides }) = origin else {
            return Err("the node was not started from a file".to_owned());
        };
        let read = tokio::task::spawn_blocking(move || NodeConfig::load(&path, &overrides)).await;
        let new = match read {
            Ok(read) => read.map_err(|error| crate::cli::whole(&error))?,
            Err(error) => return Err(error.to_string()),
        };
        self.take_over(&new)
    }

    /// Takes over what may change while the node runs.
    fn take_over(&self, new: &NodeConfig) -> Result<Reloaded, String> {
        let mut config = self.config.lock();
        // The one step that can fail comes first: then all is as it was.
        self.logging.change(&new.log)?;
        let before = settings(&config);
        let changed = |setting: &&Setting| !before.contains(setting);
        let (changeable, fixed): (Vec<_>, Vec<_>) = {
            let after = settings(new);
            let changed = after.iter().filter(changed).map(|s| (s.key, s.changeable));
            changed.partition(|(_, changeable)| *changeable)
        };
        if let Some(port) = self.port.get() {
            port.put(new.sql.clone());
        }
        // Whether there is TLS at all stays as it was.
        if let (Some(_), Some(tls)) = (&config.shard.tls, &new.shard.tls) {
            if let Some(between_nodes) = self.between_nodes.get() {
                between_nodes.put(Some(tls.clone()));
            }
            config.shard.tls = Some(tls.clone());
            config.cluster.tls = new.cluster.tls.clone();
        }
        config.sql = ProxyConfig {
            listen: config.sql.listen,
            ..new.sql.clone()
        };
        config.files = new.files.clone();
        config.log = new.log.clone();
        let names = |found: Vec<(&'static str, bool)>| found.into_iter().map(|(key, _)| key).collect();
        let mut reloaded = Reloaded {
            changed: names(changeable),
            needs_restart: names(fixed),
        };
        if config.shard.secret != new.shard.secret {
            reloaded.needs_restart.push("secret");
        }
        Ok(reloaded)
    }
}

impl Operations for Operator {
    fn status(&self) -> BoxFuture<'_, Result<ClusterStatus, String>> {
        let cluster = self.config.lock().cluster.clone();
        Box::pin(async move { Ok(gather(&cluster).await) })
    }

    fn settings(&self) -> Vec<Setting> {
        settings(&self.config.lock())
    }

    fn reload(&self) -> BoxFuture<'_, Result<Reloaded, String>> {
        Box::pin(async move {
            let _turn = self.turn.lock().await;
            let reloaded = self.read_again().await.inspect_err(|why| {
                tracing::warn!("the configuration cannot be used, and the old one stays in force: {why}");
            })?;
            for name in &reloaded.needs_restart {
                tracing::warn!("`{name}` cannot be changed without restarting the node");
            }
            let changed = reloaded.changed.join(", ");
            tracing::info!(
                changed,
                "the configuration was read again: limits, rules and certificates hold for new connections"
            );
            Ok(reloaded)
        })
    }
}

/// What an operator can configure, but for the secret.
fn settings(config: &NodeConfig) -> Vec<Setting> {
    let (timing, log) = (Timing::default(), LogConfig::default());
    let (shard, sql, files) = (&config.shard, &config.sql, &config.files);
    let fixed = |key, value: String, default: Option<String>| Setting {
        key,
        value,
        default,
        changeable: false,
    };
    let changeable = |key, value: String, default: &str| Setting {
        key,
        value,
        default: Some(default.to_owned()),
        changeable: true,
    };
    let limits = Limits::default();
    let limit = |key, of: &dyn Fn(&Limits) -> String| changeable(key, of(&sql.limits), &of(&limits));
    let path = |path: Option<&PathBuf>| path.map(|path| path.display().to_string()).unwrap_or_default();
    let list = |parts: &mut dyn Iterator<Item = String>| parts.collect::<Vec<_>>().join(", ");
    let addresses = config.cluster.nodes.iter();
    let nodes = list(&mut addresses.map(|(id, at)| format!("{id}: {} sql {}", at.peer, at.sql)));
    let groups = list(&mut shard.groups.iter().map(|(id, members)| {
        let members: Vec<String> = members.iter().map(ToString::to_string).collect();
        format!("{id}: {}", members.join(" "))
    }));
    let extra = shard.postgres.settings.iter();
    let extra = list(&mut extra.map(|(name, value)| format!("{name} = {value}")));
    let bin_dir = shard.postgres.bin_dir.as_ref();
    vec![
        fixed("node", shard.node.to_string(), None),
        fixed("cluster", shard.cluster.clone(), None),
        fixed("tls", shard.tls.is_some().to_string(), Some("false".to_owned())),
        fixed("data_dir", shard.data_dir.display().to_string(), None),
        fixed("nodes", nodes, None),
        fixed("groups", groups, None),
        changeable("log", config.log.clone(), "info"),
        fixed("sql.listen", sql.listen.to_string(), None),
        limit("sql.max_sessions", &|limits| {
            limits.max_client_connections.to_string()
        }),
        limit("sql.superuser_reserved_connections", &|limits| {
            limits.superuser_reserved_connections.to_string()
        }),
        limit("sql.max_unauthenticated", &|limits| {
            limits.max_unauthenticated.to_string()
        }),
        limit("sql.max_unauthenticated_per_address", &|limits| {
            limits.max_unauthenticated_per_address.to_string()
        }),
        limit("sql.authentication_timeout", &|limits| {
            span(limits.authentication_timeout)
        }),
        limit("sql.max_message", &|limits| {
            size(u64::try_from(limits.max_message).unwrap_or(u64::MAX))
        }),
        limit("sql.max_gathered", &|limits| {
            size(u64::try_from(limits.max_gathered).unwrap_or(u64::MAX))
        }),
        limit("sql.leader_patience", &|limits| span(limits.leader_wait)),
        changeable("sql.hba_file", path(files.hba.as_ref()), ""),
        changeable("sql.ssl", files.ssl.to_string(), "false"),
        changeable("sql.ssl_cert_file", path(Some(&files.certificate)), "server.crt"),
        changeable("sql.ssl_key_file", path(Some(&files.key)), "server.key"),
        fixed(
            "postgres.bin_dir",
            bin_dir.map(|dir| dir.display().to_string()).unwrap_or_default(),
            Some(String::new()),
        ),
        fixed(
            "postgres.user",
            shard.postgres.user.clone().unwrap_or_default(),
            Some(String::new()),
        ),
        fixed("postgres.settings", extra, Some(String::new())),
        fixed(
            "timing.heartbeat",
            span(shard.timing.heartbeat),
            Some(span(timing.heartbeat)),
        ),
        fixed(
            "timing.election",
            span(shard.timing.election),
            Some(span(timing.election)),
        ),
        fixed("wal.keep", size(shard.log.keep_bytes), Some(size(log.keep_bytes))),
        fixed("wal.max", size(shard.log.max_bytes), Some(size(log.max_bytes))),
    ]
}

/// As the configuration file has it.
fn span(span: Duration) -> String {
    if span.subsec_millis() == 0 {
        format!("{}s", span.as_secs())
    } else {
        format!("{}ms", span.as_millis())
    }
}

/// As the configuration file has it.
fn size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units
        .iter()
        .find(|(bits, _)| bytes > 0 && bytes.trailing_zeros() >= *bits);
    match unit {
        Some((bits, unit)) => format!("{}{unit}", bytes >> bits),
        None => format!("{bytes}B"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Overrides;

    const FILE: &str = r#"node = 1
cluster = "test"
data_dir = "node1"
[[nodes]]
id = 1
address = "127.0.0.1:7001"
sql = "127.0.0.1:6432"
[[groups]]
id = 1
nodes = [1]
"#;

    fn config(secret: &Path, more: &str) -> NodeConfig {
        let overrides = Overrides {
            secret_file: Some(secret.to_owned()),
            ..Overrides::default()
        };
        NodeConfig::from_text(
            Path::new("/nowhere/node.toml"),
            &format!("{FILE}{more}"),
            &overrides,
        )
        .unwrap()
    }

    #[test]
    fn what_can_change_changes_and_the_rest_is_named() {
        let secret = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&secret, "0123456789abcdef").unwrap();
        let operator = Operator::new(config(secret.path(), ""), Logging::none());
        let new = config(
            secret.path(),
            "[sql]\nmax_sessions = 7\nleader_patience = \"1500ms\"\n[timing]\nelection = \"2s\"\n",
        );
        let reloaded = operator.take_over(&new).unwrap();
        assert_eq!(reloaded.changed, ["sql.max_sessions", "sql.leader_patience"]);
        assert_eq!(reloaded.needs_restart, ["timing.election"]);
        let value = |key| {
            let settings = operator.settings();
            let found = settings.into_iter().find(|setting| setting.key == key);
            found.map(|setting| setting.value).unwrap()
        };
        assert_eq!(value("sql.max_sessions"), "7");
        assert_eq!(value("sql.leader_patience"), "1500ms");
        assert_eq!(value("timing.election"), "700ms", "what is in force is shown");
        let again = operator.take_over(&new).unwrap();
        assert_eq!(
            (again.changed, again.needs_restart),
            (vec![], vec!["timing.election"])
        );
    }

    #[test]
    fn a_wrong_log_changes_nothing() {
        let secret = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&secret, "0123456789abcdef").unwrap();
        let operator = Operator::new(config(secret.path(), ""), Logging::none());
        let mut new = config(secret.path(), "[sql]\nmax_sessions = 7\n");
        new.log = "howdah=loud".to_owned();
        assert!(operator.take_over(&new).is_err());
        assert!(operator.settings().iter().all(|setting| setting.value != "7"));
    }

    #[test]
    fn sizes_are_as_in_the_file() {
        assert_eq!([size(0), size(1 << 30), size(3 << 19)], ["0B", "1GiB", "1536KiB"]);
    }
}
