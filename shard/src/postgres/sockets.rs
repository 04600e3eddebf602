//! Where PostgreSQL is reached: unix sockets in a private folder, never the network.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::SUPERUSER;
use super::account::{Account, Owner};
use super::error::Error;

/// `sun_path` holds 108 bytes, a closing zero included.
const MAX_SOCKET_PATH: usize = 107;

/// A place where something that speaks PostgreSQL's protocol listens: libpq's `host` and `port` for
/// a unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The folder of the socket.
    pub dir: PathBuf,
    /// The number in the socket's name; no network port.
    pub port: u16,
}

impl Endpoint {
    /// The socket itself, `<dir>/.s.PGSQL.<port>`.
    #[must_use]
    pub fn socket_path(&self) -> PathBuf {
        self.dir.join(format!(".s.PGSQL.{}", self.port))
    }

    /// A raw connection, before its start-up message.
    pub async fn connect(&self) -> io::Result<UnixStream> {
        UnixStream::connect(self.socket_path()).await
    }

    /// Returns when the server has greeted a new connection, which it makes a process for. Nothing is asked of it
    /// but whether it encrypts (protocol-flow, SSL session encryption), which it answers before it looks who comes,
    /// and without a word in its log (`ProcessStartupPacket`).
    pub async fn greets(&self) -> io::Result<()> {
        /// SSLRequest: length 8, code 80877103.
        const QUESTION: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
        let mut stream = self.connect().await?;
        stream.write_all(&QUESTION).await?;
        stream.read_u8().await.map(drop)
    }

    /// A connection string for libpq, for a connection of ours named `application_name`.
    #[must_use]
    pub fn conninfo(&self, application_name: &str) -> String {
        let quoted = |text: &str| format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'"));
        format!(
            "host={} port={} user={SUPERUSER} application_name={} sslmode=disable",
            quoted(&self.dir.to_string_lossy()),
            self.port,
            quoted(application_name),
        )
    }
}

/// The socket folder of a replica: `<replica>/s`, or one under /tmp where that would be too long.
pub(super) fn choose_dir(replica: &Path) -> PathBuf {
    let beside = replica.join("s");
    let longest = Endpoint {
        dir: beside.clone(),
        port: u16::MAX,
    };
    if longest.socket_path().as_os_str().len() <= MAX_SOCKET_PATH {
        return beside;
    }
    let digest = Sha256::digest(replica.as_os_str().as_encoded_bytes());
    let name: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    PathBuf::from(format!("/tmp/howdah-{name}"))
}

/// Makes the folder, for the server's user alone (and root).
///
/// One that somebody else made is refused: under /tmp anybody may.
pub(super) fn make_dir(dir: &Path, account: &Account) -> Result<(), Error> {
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let found = fs::symlink_metadata(dir).map_err(Error::io("read", dir))?;
            let ourselves = rustix::process::geteuid().as_raw();
            let expected = match account.owner() {
                Owner::Maker => ourselves,
                Owner::Other { uid, .. } => uid,
            };
            if !found.is_dir() || (found.uid() != expected && found.uid() != ourselves) {
                let stranger = io::Error::from(io::ErrorKind::PermissionDenied);
                return Err(Error::io("use as a private folder", dir)(stranger));
            }
        }
        Err(error) => return Err(Error::io("create", dir)(error)),
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(Error::io("close to others", dir))?;
    account.owner().take(dir).map_err(Error::io("hand over", dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_deep_in_the_tree_has_its_sockets_in_a_short_path() {
        let short = choose_dir(Path::new("/var/lib/howdah/groups/1"));
        assert_eq!(short, Path::new("/var/lib/howdah/groups/1/s"));
        let deep = PathBuf::from(format!("/{}", "d/".repeat(60)));
        let endpoint = Endpoint {
            dir: choose_dir(&deep),
            port: 65535,
        };
        assert!(endpoint.socket_path().as_os_str().len() <= MAX_SOCKET_PATH);
        assert_ne!(choose_dir(&deep), choose_dir(&deep.join("other")));
    }

    #[test]
    fn conninfo_quotes_what_a_path_may_hold() {
        let endpoint = Endpoint {
            dir: PathBuf::from("/a 'b\\"),
            port: 5432,
        };
        assert!(
            endpoint
                .conninfo("howdah")
                .starts_with(r"host='/a \'b\\' port=5432 user=postgres")
        );
    }
}
