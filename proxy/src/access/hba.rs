//! Who may come from where, to which database, and how they prove who they are: the rules of `pg_hba.conf`.
//!
//! The first rule that fits decides, as in PostgreSQL (hba.c). What a rule could say there and cannot here is an error when
//! the file is read, never a rule that is left out.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use shard::small_file;

use super::hba_file::{Line, Word, lines};

/// The rules of one node, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hba {
    rules: Vec<Rule>,
}

/// Why a file of rules cannot be used: one line.
#[derive(Debug, thiserror::Error)]
pub enum HbaError {
    /// It cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line of it.
    #[error("{}:{line}: {what}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
}

/// How a client proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// Not at all.
    Trust,
    /// It is not let in.
    Reject,
    /// By its password, which stays with it.
    Scram,
}

/// A client, as far as rules look at it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Applicant<'a> {
    pub(crate) address: IpAddr,
    pub(crate) encrypted: bool,
    pub(crate) database: &'a str,
    pub(crate) user: &'a str,
    /// The roles that it is a member of, itself included.
    pub(crate) member_of: &'a [String],
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    channel: Channel,
    databases: Vec<Word>,
    users: Vec<Word>,
    source: Source,
    method: Method,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Channel {
    /// A unix socket, which nodes do not offer: such a rule fits nobody.
    Local,
    /// TCP.
    Any,
    /// TLS.
    Encrypted,
    /// TCP without it.
    Clear,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Anywhere,
    Network { address: IpAddr, mask: IpAddr },
}

impl Hba {
    /// What holds where no file is named: whoever knows a password.
    #[must_use]
    pub fn passwords_only() -> Hba {
        Hba::of("host all all all scram-sha-256")
    }

    /// Everybody is let in from this machine, and nobody else.
    #[must_use]
    pub fn trust_loopback() -> Hba {
        Hba::of("host all all 127.0.0.1/32 trust\nhost all all ::1/128 trust")
    }

    fn of(text: &str) -> Hba {
        Hba::parse(text).expect("our own rules can be read")
    }

    /// Reads a file of rules.
    ///
    /// # Errors
    /// When it cannot be read, or a line of it is none that can be kept to.
    pub fn load(path: &Path) -> Result<Hba, HbaError> {
        let failed = |source| HbaError::Read {
            path: path.to_owned(),
            source,
        };
        let text = String::from_utf8(small_file::read(path).map_err(failed)?)
            .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidData, error)))?;
        Hba::parse(&text).map_err(|(line, what)| HbaError::Line {
            path: path.to_owned(),
            line,
            what,
        })
    }

    /// Reads rules; an error is told with its line.
    pub(crate) fn parse(text: &str) -> Result<Hba, (usize, String)> {
        let rule = |line: Line| {
            let number = line.number;
            rule(line).map_err(|what| (number, what))
        };
        let rules: Vec<Rule> = lines(text)?.into_iter().map(rule).collect::<Result<_, _>>()?;
        // As PostgreSQL: such a file is a mistake.
        if rules.is_empty() {
            return Err((1, "it contains no entries".to_owned()));
        }
        Ok(Hba { rules })
    }

    /// What the first rule says that fits; none where none does.
    pub(crate) fn decide(&self, applicant: &Applicant<'_>) -> Option<Method> {
        let fits = |rule: &&Rule| rule.fits(applicant);
        self.rules.iter().find(fits).map(|rule| rule.method)
    }
}

impl Rule {
    fn fits(&self, applicant: &Applicant<'_>) -> bool {
        let channel = match self.channel {
            Channel::Local => false,
            Channel::Any => true,
            Channel::Encrypted => applicant.encrypted,
            Channel::Clear => !applicant.encrypted,
        };
        channel
            && self.source.includes(applicant.address)
            && self.databases.iter().any(|word| is_database(word, applicant))
            && self.users.iter().any(|word| is_user(word, applicant))
    }
}

impl Source {
    fn includes(self, address: IpAddr) -> bool {
        match (self, address.to_canonical()) {
            (Source::Anywhere, _) => true,
            (
                Source::Network {
                    address: IpAddr::V4(network),
                    mask: IpAddr::V4(mask),
                },
                IpAddr::V4(address),
            ) => (network.to_bits() ^ address.to_bits()) & mask.to_bits() == 0,
            (
                Source::Network {
                    address: IpAddr::V6(network),
                    mask: IpAddr::V6(mask),
                },
                IpAddr::V6(address),
            ) => (network.to_bits() ^ address.to_bits()) & mask.to_bits() == 0,
            _ => false,
        }
    }
}

/// `check_db`. `replication` stands for physical replication, which nodes do not offer: it fits no database.
fn is_database(word: &Word, applicant: &Applicant<'_>) -> bool {
    if word.is("all") {
        true
    } else if word.is("sameuser") {
        applicant.database == applicant.user
    } else if word.is("samerole") || word.is("samegroup") {
        applicant.member_of.iter().any(|role| role == applicant.database)
    } else {
        !word.is("replication") && word.text == applicant.database
    }
}

/// `check_role`.
fn is_user(word: &Word, applicant: &Applicant<'_>) -> bool {
    match word.text.strip_prefix('+').filter(|_| !word.quoted) {
        Some(role) => applicant.member_of.iter().any(|of| of == role),
        None => word.is("all") || word.text == applicant.user,
    }
}

fn rule(line: Line) -> Result<Rule, String> {
    let mut fields = line.fields.into_iter();
    let kind = one(fields.next(), "connection type")?;
    let channel = match kind.text.as_str() {
        "local" => Channel::Local,
        "host" => Channel::Any,
        "hostssl" => Channel::Encrypted,
        "hostnossl" => Channel::Clear,
        other => {
            return Err(format!(
                "invalid connection type \"{other}\": only local, host, hostssl and hostnossl are known"
            ));
        }
    };
    let databases = names(fields.next(), "database")?;
    let users = names(fields.next(), "role")?;
    let source = if channel == Channel::Local {
        Source::Anywhere
    } else {
        let address = one(fields.next(), "IP address")?;
        source(&address, &mut fields)?
    };
    let method = one(fields.next(), "authentication method")?;
    let method = match method.text.as_str() {
        "trust" => Method::Trust,
        "reject" => Method::Reject,
        "scram-sha-256" => Method::Scram,
        "md5" | "password" => {
            return Err(format!(
                "authentication method \"{}\" is not supported: use scram-sha-256, which never shows the password",
                method.text
            ));
        }
        other => {
            return Err(format!(
                "invalid authentication method \"{other}\": only trust, reject and scram-sha-256 are known"
            ));
        }
    };
    match fields.next() {
        None => Ok(Rule {
            channel,
            databases,
            users,
            source,
            method,
        }),
        Some(option) => {
            let option = option.first().map_or("", |word| &word.text);
            Err(format!("authentication option \"{option}\" is not supported"))
        }
    }
}

fn one(field: Option<Vec<Word>>, what: &str) -> Result<Word, String> {
    let mut words = field
        .ok_or_else(|| format!("end-of-line before {what} specification"))?
        .into_iter();
    match (words.next(), words.next()) {
        (Some(word), None) => Ok(word),
        _ => Err(format!("multiple values specified for {what}")),
    }
}

fn names(field: Option<Vec<Word>>, what: &str) -> Result<Vec<Word>, String> {
    let words = field.ok_or_else(|| format!("end-of-line before {what} specification"))?;
    for word in words.iter().filter(|word| !word.quoted) {
        if word.text.starts_with('@') {
            return Err(format!(
                "\"{}\": names from another file are not supported",
                word.text
            ));
        }
        if word.text.starts_with('/') {
            return Err(format!(
                "\"{}\": regular expressions are not supported",
                word.text
            ));
        }
        if word.text == "+" {
            return Err("\"+\" names no role".to_owned());
        }
    }
    Ok(words)
}

/// An address with the length of its mask, or with the mask as a field of its own.
fn source(word: &Word, fields: &mut impl Iterator<Item = Vec<Word>>) -> Result<Source, String> {
    if word.is("all") {
        return Ok(Source::Anywhere);
    }
    let (address, length) = match word.text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (word.text.as_str(), None),
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return Err(format!(
            "\"{}\" is no IP address: host names, samehost and samenet are not supported",
            word.text
        ));
    };
    let mask = match length {
        Some(length) => {
            mask(address, length).ok_or_else(|| format!("invalid CIDR mask in address \"{}\"", word.text))?
        }
        None => {
            let mask = one(fields.next(), "netmask")?;
            let parsed: IpAddr = mask
                .text
                .parse()
                .map_err(|_| format!("invalid IP mask \"{}\"", mask.text))?;
            if parsed.is_ipv4() != address.is_ipv4() {
                return Err("IP address and mask do not match".to_owned());
            }
            parsed
        }
    };
    Ok(Source::Network { address, mask })
}

fn mask(address: IpAddr, length: &str) -> Option<IpAddr> {
    let length: u32 = length.parse().ok()?;
    match address {
        IpAddr::V4(_) if length <= 32 => {
            let bits = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            Some(IpAddr::V4(bits.into()))
        }
        IpAddr::V6(_) if length <= 128 => {
            let bits = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            Some(IpAddr::V6(bits.into()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(rules: &str, address: &str, encrypted: bool, database: &str, user: &str) -> Option<Method> {
        let member_of = [user.to_owned(), "staff".to_owned()];
        Hba::parse(rules).expect("good rules").decide(&Applicant {
            address: address.parse().expect("an address"),
            encrypted,
            database,
            user,
            member_of: &member_of,
        })
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let rules = "local all all trust\n\
                     hostnossl all all 10.0.0.0/8 reject\n\
                     hostssl shop,books +staff 10.1.0.0 255.255.0.0 scram-sha-256\n\
                     host sameuser all ::1/128 trust\n\
                     host all \"+staff\",bob 192.168.7.9/32 trust\n\
                     host \"all\" all all reject\n\
                     host staff,replication all 0.0.0.0/0 trust\n";
        let check = |address, encrypted, database, user| decide(rules, address, encrypted, database, user);
        assert_eq!(check("10.1.2.3", false, "shop", "ada"), Some(Method::Reject));
        assert_eq!(check("10.1.2.3", true, "books", "ada"), Some(Method::Scram));
        assert_eq!(
            check("::ffff:10.1.2.3", true, "books", "ada"),
            Some(Method::Scram)
        );
        assert_eq!(check("10.2.2.3", true, "books", "ada"), None);
        assert_eq!(check("::1", false, "ada", "ada"), Some(Method::Trust));
        assert_eq!(check("::1", false, "shop", "ada"), None);
        assert_eq!(check("192.168.7.9", false, "shop", "bob"), Some(Method::Trust));
        assert_eq!(check("192.168.7.9", false, "shop", "ada"), None);
        assert_eq!(check("192.168.7.8", false, "shop", "bob"), None);
        assert_eq!(check("192.168.7.9", false, "shop", "+staff"), Some(Method::Trust));
        assert_eq!(check("9.9.9.9", false, "all", "ada"), Some(Method::Reject));
        assert_eq!(check("9.9.9.9", false, "staff", "ada"), Some(Method::Trust));
        assert_eq!(check("9.9.9.9", false, "replication", "ada"), None);
        assert_eq!(
            decide("host samerole all all trust", "9.9.9.9", false, "staff", "ada"),
            Some(Method::Trust)
        );
        assert_eq!(
            decide("host samerole all all trust", "9.9.9.9", false, "shop", "ada"),
            None
        );
    }

    #[test]
    fn what_cannot_be_kept_to_is_an_error_with_its_line() {
        for (rules, line, what) in [
            ("", 1, "no entries"),
            ("# only this\n", 1, "no entries"),
            (
                "host all all all trust\nhostgssenc all all all trust",
                2,
                "invalid connection type \"hostgssenc\"",
            ),
            ("include other", 1, "invalid connection type \"include\""),
            ("host", 1, "end-of-line before database specification"),
            ("host all", 1, "end-of-line before role specification"),
            ("host all all", 1, "end-of-line before IP address specification"),
            (
                "host all all all",
                1,
                "end-of-line before authentication method specification",
            ),
            (
                "\n\nhost all all all password",
                3,
                "authentication method \"password\" is not supported",
            ),
            (
                "host all all all md5",
                1,
                "authentication method \"md5\" is not supported",
            ),
            (
                "host all all all peer",
                1,
                "invalid authentication method \"peer\"",
            ),
            (
                "host all all all cert",
                1,
                "invalid authentication method \"cert\"",
            ),
            (
                "host all all all scram-sha-256 clientcert=verify-full",
                1,
                "authentication option \"clientcert=verify-full\"",
            ),
            ("host all all 10.0.0.0/33 trust", 1, "invalid CIDR mask"),
            ("host all all 10.0.0.0/x trust", 1, "invalid CIDR mask"),
            ("host all all 10.0.0.0 trust", 1, "invalid IP mask \"trust\""),
            ("host all all 10.0.0.0 ffff:: trust", 1, "do not match"),
            ("host all all example.org trust", 1, "is no IP address"),
            ("host all all samenet trust", 1, "samenet are not supported"),
            (
                "host all all 1.1.1.1/32,2.2.2.2/32 trust",
                1,
                "multiple values specified for IP address",
            ),
            ("host @others all all trust", 1, "names from another file"),
            ("host all /^a all trust", 1, "regular expressions"),
        ] {
            let (at, error) = Hba::parse(rules).expect_err(rules);
            assert_eq!(at, line, "{rules}");
            assert!(error.contains(what), "{rules}: {error}");
        }
    }

    #[test]
    fn our_own_rules_mean_what_they_say() {
        let from = |address: &str| Applicant {
            address: address.parse().expect("an address"),
            encrypted: false,
            database: "postgres",
            user: "postgres",
            member_of: &[],
        };
        assert_eq!(
            Hba::passwords_only().decide(&from("127.0.0.1")),
            Some(Method::Scram)
        );
        assert_eq!(
            Hba::trust_loopback().decide(&from("127.0.0.1")),
            Some(Method::Trust)
        );
        assert_eq!(Hba::trust_loopback().decide(&from("10.0.0.1")), None);
    }
}
