//! Whom PostgreSQL runs as: ourselves, or an unprivileged user where we are root.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use super::error::Error;

/// Who runs when the configuration names nobody.
const DEFAULT_USER: &str = "postgres";

/// The operating-system user of the PostgreSQL processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Account {
    /// The node's own user.
    Ourselves,
    /// Another user: the node is root.
    User {
        /// Its name.
        name: String,
        /// Its user id.
        uid: u32,
        /// Its group id.
        gid: u32,
    },
}

/// Whom a file is to belong to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Owner {
    /// Whoever makes it.
    Maker,
    /// The user that runs PostgreSQL.
    Other {
        /// Its user id.
        uid: u32,
        /// Its group id.
        gid: u32,
    },
}

impl Owner {
    /// Hands the file over.
    pub(super) fn take(self, path: &Path) -> io::Result<()> {
        match self {
            Owner::Maker => Ok(()),
            Owner::Other { uid, gid } => chown(path, Some(uid), Some(gid)),
        }
    }
}

impl Account {
    /// As root the configured user (`postgres` where none is); else ourselves.
    pub(super) fn choose(configured: Option<&str>) -> Result<Account, Error> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Account::Ourselves);
        }
        let name = configured.unwrap_or(DEFAULT_USER);
        let no_user = || Error::NoUser {
            user: name.to_owned(),
        };
        // `id` and not /etc/passwd: users may come from a directory service.
        let uid = ask_id("-u", name).ok_or_else(no_user)?;
        let gid = ask_id("-g", name).ok_or_else(no_user)?;
        if uid == 0 {
            return Err(no_user());
        }
        Ok(Account::User {
            name: name.to_owned(),
            uid,
            gid,
        })
    }

    /// Whom PostgreSQL's files must belong to.
    pub(super) fn owner(&self) -> Owner {
        match *self {
            Account::Ourselves => Owner::Maker,
            Account::User { uid, gid, .. } => Owner::Other { uid, gid },
        }
    }

    /// Lets a command run as this user, without any group but its own.
    pub(super) fn apply(&self, command: &mut Command) {
        if let Account::User { uid, gid, .. } = *self {
            use std::os::unix::process::CommandExt;
            command.uid(uid).gid(gid);
        }
    }

    /// Makes `path` enterable, and refuses if a folder above it is not: those are not ours to open.
    pub(super) fn check_reach(&self, path: &Path) -> Result<(), Error> {
        let Account::User { name, .. } = self else {
            return Ok(());
        };
        let mode = fs::metadata(path)
            .map_err(Error::io("read", path))?
            .permissions()
            .mode();
        if mode & 0o011 != 0o011 {
            fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o7777 | 0o011))
                .map_err(Error::io("open to others", path))?;
        }
        let mut above: Vec<&Path> = path.ancestors().collect();
        above.reverse();
        match above.into_iter().find(|folder| !self.may_enter(folder)) {
            Some(closed) => Err(Error::NotTraversable {
                path: closed.to_owned(),
                user: name.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Asks the kernel by trying as that user: modes alone do not tell (groups, access lists).
    fn may_enter(&self, folder: &Path) -> bool {
        let mut test = Command::new("test");
        test.arg("-x")
            .arg(folder)
            .current_dir("/")
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        self.apply(&mut test);
        test.status().is_ok_and(|status| status.success())
    }
}

fn ask_id(which: &str, user: &str) -> Option<u32> {
    let output = Command::new("id")
        .args([which, "--", user])
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    if output.status.success() {
        text.trim().parse().ok()
    } else {
        None
    }
}
