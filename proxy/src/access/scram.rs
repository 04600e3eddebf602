//! The server's side of SCRAM-SHA-256 and SCRAM-SHA-256-PLUS: pure, a message in, a message out.
//!
//! Sources: RFC 5802, RFC 7677, RFC 5929 (`tls-server-end-point`), and PostgreSQL's auth-scram.c, whose errors these are.
//! A step consumes the one before it, so no message can be given twice; one of another conversation lacks our nonce.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::analysis::Refusal;

/// The mechanism without channel binding.
pub(crate) const PLAIN: &str = "SCRAM-SHA-256";
/// The mechanism that is bound to the TLS channel.
pub(crate) const PLUS: &str = "SCRAM-SHA-256-PLUS";

/// What PostgreSQL gives to new verifiers (SCRAM_DEFAULT_ITERATIONS, SCRAM_DEFAULT_SALT_LEN): one that we make up must look the same.
const ITERATIONS: u32 = 4096;
const SALT: usize = 16;
/// SCRAM_RAW_NONCE_LEN.
const NONCE: usize = 18;

type Key = [u8; 32];

/// What a proof is checked against.
pub(crate) struct Secret {
    iterations: u32,
    /// In base64.
    salt: String,
    /// None: no proof is good enough.
    keys: Option<Keys>,
}

struct Keys {
    stored: Key,
    server: Key,
}

impl Secret {
    /// Reads a verifier of `pg_authid`: `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`.
    pub(crate) fn parse(verifier: &str) -> Option<Secret> {
        let (iterations, rest) = verifier.strip_prefix("SCRAM-SHA-256$")?.split_once(':')?;
        let (salt, keys) = rest.split_once('$')?;
        let (stored, server) = keys.split_once(':')?;
        STANDARD.decode(salt).ok()?;
        Some(Secret {
            iterations: iterations.parse().ok().filter(|count| *count > 0)?,
            salt: salt.to_owned(),
            keys: Some(Keys {
                stored: key(stored)?,
                server: key(server)?,
            }),
        })
    }

    /// What a role is shown that does not exist or has no verifier: nobody can tell it from a real one, today or tomorrow
    /// (`mock_scram_secret`).
    pub(crate) fn mock(user: &[u8], nonce: &Key) -> Secret {
        let hash = Sha256::new().chain_update(user).chain_update(nonce).finalize();
        Secret {
            iterations: ITERATIONS,
            salt: STANDARD.encode(&hash[..SALT]),
            keys: None,
        }
    }
}

fn key(base64: &str) -> Option<Key> {
    STANDARD.decode(base64).ok()?.try_into().ok()
}

/// A conversation in which the client has said nothing yet.
pub(crate) struct Server<'a> {
    pub(crate) secret: Secret,
    /// What the TLS channel is known by; none without one, or where its certificate names no hash.
    pub(crate) end_point: Option<&'a [u8]>,
}

/// The client has been sent the salt.
pub(crate) struct Challenged {
    secret: Secret,
    /// What `c=` must be, in base64.
    binding: String,
    nonce: String,
    /// The two messages so far, without the channel binding, and a comma.
    transcript: String,
}

/// What the client's proof is worth.
pub(crate) enum Verdict {
    /// It knows the password. The message proves that the server knows the verifier.
    Proved(String),
    /// It does not.
    Wrong,
}

impl Server<'_> {
    /// The mechanisms that are offered, the better one first.
    pub(crate) fn mechanisms(&self) -> &'static [&'static str] {
        match self.end_point {
            Some(_) => &[PLUS, PLAIN],
            None => &[PLAIN],
        }
    }

    /// Takes the client's first message; gives ours.
    pub(crate) fn first(self, mechanism: &[u8], message: &[u8]) -> Result<(Challenged, String), Refusal> {
        let bound = mechanism == PLUS.as_bytes() && self.end_point.is_some();
        if !bound && mechanism != PLAIN.as_bytes() {
            let words = "client selected an invalid SASL authentication mechanism";
            return Err(Refusal::new("08P01", words));
        }
        let message =
            std::str::from_utf8(message).map_err(|_| malformed("The message is not valid UTF-8."))?;
        let (flag, rest) = message
            .split_once(',')
            .ok_or_else(|| malformed("Comma expected, but found end of message."))?;
        self.check_flag(flag, bound)?;
        let (identity, bare) = rest
            .split_once(',')
            .ok_or_else(|| malformed("Comma expected, but found end of message."))?;
        if identity.starts_with('a') {
            let words = "client uses authorization identity, but it is not supported";
            return Err(Refusal::unsupported(words));
        }
        if !identity.is_empty() {
            return Err(malformed("Unexpected attribute in client-first-message."));
        }
        if bare.starts_with('m') {
            return Err(Refusal::unsupported(
                "client requires an unsupported SCRAM extension",
            ));
        }
        let mut attributes = bare.split(',');
        // The name of the start-up packet counts, as in PostgreSQL.
        attribute(attributes.next(), "n=")?;
        let client_nonce = attribute(attributes.next(), "r=")?;
        if client_nonce.is_empty() || !client_nonce.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Refusal::new("08P01", "non-printable characters in SCRAM nonce"));
        }
        let nonce = format!("{client_nonce}{}", STANDARD.encode(rand::random::<[u8; NONCE]>()));
        let mut binding = format!("{flag},,").into_bytes();
        if bound {
            binding.extend_from_slice(self.end_point.unwrap_or_default());
        }
        let Secret { iterations, salt, .. } = &self.secret;
        let answer = format!("r={nonce},s={salt},i={iterations}");
        let challenged = Challenged {
            binding: STANDARD.encode(binding),
            nonce,
            transcript: format!("{bare},{answer},"),
            secret: self.secret,
        };
        Ok((challenged, answer))
    }

    /// The channel binding flag of the GS2 header: it tells what the client believes of us, so whoever has stripped
    /// our offer on the way is found out.
    fn check_flag(&self, flag: &str, bound: bool) -> Result<(), Refusal> {
        match flag {
            "n" | "y" if bound => Err(malformed(
                "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel binding data.",
            )),
            "n" => Ok(()),
            "y" if self.end_point.is_some() => {
                Err(
                    Refusal::new("28000", "SCRAM channel binding negotiation error").detail(
                        "The client supports SCRAM channel binding but thinks the server does not.  \
                     However, this server does support channel binding.",
                    ),
                )
            }
            "y" => Ok(()),
            _ => match flag.strip_prefix("p=") {
                Some(_) if !bound => Err(malformed(
                    "The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message includes channel binding data.",
                )),
                Some("tls-server-end-point") => Ok(()),
                Some(kind) => Err(Refusal::new(
                    "08P01",
                    format!("unsupported SCRAM channel-binding type \"{}\"", printable(kind)),
                )),
                None => Err(malformed(&format!(
                    "Unexpected channel-binding flag \"{}\".",
                    printable(flag)
                ))),
            },
        }
    }
}

impl Challenged {
    /// Takes the client's last message.
    pub(crate) fn last(self, message: &[u8]) -> Result<Verdict, Refusal> {
        let message =
            std::str::from_utf8(message).map_err(|_| malformed("The message is not valid UTF-8."))?;
        let (without_proof, proof) = message
            .rsplit_once(",p=")
            .ok_or_else(|| malformed("Malformed proof in client-final-message."))?;
        let mut attributes = without_proof.split(',');
        if attribute(attributes.next(), "c=")? != self.binding {
            // Which of the two it was, the flag of the first message decided.
            return Err(if self.binding == "biws" || self.binding == "eSws" {
                let words = "unexpected SCRAM channel-binding attribute in client-final-message";
                Refusal::new("08P01", words)
            } else {
                Refusal::new("28000", "SCRAM channel binding check failed")
            });
        }
        if attribute(attributes.next(), "r=")? != self.nonce {
            return Err(Refusal::new("08P01", "invalid SCRAM response").detail("Nonce does not match."));
        }
        let proof = key(proof).ok_or_else(|| malformed("Malformed proof in client-final-message."))?;
        let transcript = format!("{}{without_proof}", self.transcript);
        // As much work for a role that is not there as for one that is.
        let nothing = Keys {
            stored: [0; 32],
            server: [0; 32],
        };
        let known = self.secret.keys.is_some();
        let keys = self.secret.keys.unwrap_or(nothing);
        let mut client_key = sign(&keys.stored, &transcript);
        for (byte, proof) in client_key.iter_mut().zip(proof) {
            *byte ^= proof;
        }
        let proved = Sha256::digest(client_key).ct_eq(&keys.stored);
        if known && bool::from(proved) {
            let signature = STANDARD.encode(sign(&keys.server, &transcript));
            Ok(Verdict::Proved(format!("v={signature}")))
        } else {
            Ok(Verdict::Wrong)
        }
    }
}

fn sign(key: &Key, text: &str) -> Key {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().into()
}

fn attribute<'a>(found: Option<&'a str>, name: &str) -> Result<&'a str, Refusal> {
    let found = found.unwrap_or_default();
    found.strip_prefix(name).ok_or_else(|| {
        malformed(&format!(
            "Expected attribute \"{}\" in the message.",
            &name[..name.len() - 1]
        ))
    })
}

fn malformed(detail: &str) -> Refusal {
    Refusal::new("08P01", "malformed SCRAM message").detail(detail)
}

/// The beginning of what a client sent, fit for a message and a log.
fn printable(text: &str) -> String {
    text.chars()
        .take(30)
        .map(|c| if c.is_ascii_graphic() { c } else { '?' })
        .collect()
}

#[cfg(test)]
mod tests {
    use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
    use postgres_protocol::password::scram_sha_256;

    use super::*;

    const CHANNEL: &[u8] = b"the hash of a certificate";

    fn server(end_point: Option<&[u8]>) -> Server<'_> {
        let secret = Secret::parse(&scram_sha_256(b"secret")).expect("a verifier");
        Server { secret, end_point }
    }

    /// A conversation with a real client: whether it is let in, or the SQLSTATE of the refusal.
    fn talk(
        server: Server<'_>,
        mechanism: &str,
        password: &[u8],
        binding: ChannelBinding,
    ) -> Result<bool, Refusal> {
        let mut client = ScramSha256::new(password, binding);
        let (challenged, answer) = server.first(mechanism.as_bytes(), client.message())?;
        client.update(answer.as_bytes()).expect("it can be read");
        match challenged.last(client.message())? {
            Verdict::Proved(answer) => {
                client.finish(answer.as_bytes()).expect("it is the server");
                Ok(true)
            }
            Verdict::Wrong => Ok(false),
        }
    }

    #[test]
    fn the_password_decides() {
        let bound = || ChannelBinding::tls_server_end_point(CHANNEL.to_vec());
        assert_eq!(
            talk(server(None), PLAIN, b"secret", ChannelBinding::unsupported()),
            Ok(true)
        );
        assert_eq!(
            talk(server(None), PLAIN, b"Secret", ChannelBinding::unsupported()),
            Ok(false)
        );
        assert_eq!(talk(server(Some(CHANNEL)), PLUS, b"secret", bound()), Ok(true));
        assert_eq!(talk(server(Some(CHANNEL)), PLUS, b"", bound()), Ok(false));
        // A client that knows of no channel binding.
        assert_eq!(
            talk(
                server(Some(CHANNEL)),
                PLAIN,
                b"secret",
                ChannelBinding::unsupported()
            ),
            Ok(true)
        );
        // One that would have bound, and was offered nothing: true without TLS.
        assert_eq!(
            talk(server(None), PLAIN, b"secret", ChannelBinding::unrequested()),
            Ok(true)
        );
    }

    #[test]
    fn a_channel_that_is_not_ours_or_was_kept_quiet_about_is_found_out() {
        let of = |hash: &[u8]| ChannelBinding::tls_server_end_point(hash.to_vec());
        let refused = |result: Result<bool, Refusal>| result.expect_err("refused");
        let other = refused(talk(server(Some(CHANNEL)), PLUS, b"secret", of(b"another")));
        assert_eq!(
            (other.sqlstate, &*other.message),
            ("28000", "SCRAM channel binding check failed")
        );
        let stripped = refused(talk(
            server(Some(CHANNEL)),
            PLAIN,
            b"secret",
            ChannelBinding::unrequested(),
        ));
        assert_eq!(
            (stripped.sqlstate, &*stripped.message),
            ("28000", "SCRAM channel binding negotiation error")
        );
        for (mechanism, binding) in [(PLAIN, of(CHANNEL)), (PLUS, ChannelBinding::unsupported())] {
            let mixed = refused(talk(server(Some(CHANNEL)), mechanism, b"secret", binding));
            assert_eq!(mixed.sqlstate, "08P01");
        }
        // PLUS without TLS.
        assert_eq!(
            refused(talk(server(None), PLUS, b"secret", of(CHANNEL))).sqlstate,
            "08P01"
        );
    }

    #[test]
    fn a_last_message_of_another_conversation_is_worth_nothing() {
        let mut client = ScramSha256::new(b"secret", ChannelBinding::unsupported());
        let first = client.message().to_vec();
        let (_, answer) = server(None).first(PLAIN.as_bytes(), &first).expect("taken");
        client.update(answer.as_bytes()).expect("it can be read");
        let (again, _) = server(None).first(PLAIN.as_bytes(), &first).expect("taken");
        let refusal = again.last(client.message()).err().expect("refused");
        assert_eq!(refusal.detail.as_deref(), Some("Nonce does not match."));
    }

    #[test]
    fn a_role_that_is_not_there_looks_the_same_each_time_and_is_never_let_in() {
        let shown = |user: &[u8], nonce| {
            let secret = Secret::mock(user, &nonce);
            (secret.salt, secret.iterations)
        };
        assert_eq!(shown(b"ada", [1; 32]), shown(b"ada", [1; 32]));
        assert_ne!(shown(b"ada", [1; 32]), shown(b"bob", [1; 32]));
        assert_ne!(shown(b"ada", [1; 32]), shown(b"ada", [2; 32]));
        let real = Secret::parse(&scram_sha_256(b"secret")).expect("a verifier");
        assert_eq!(real.salt.len(), shown(b"ada", [1; 32]).0.len());
        assert_eq!(real.iterations, shown(b"ada", [1; 32]).1);
        let secret = Secret::mock(b"ada", &[1; 32]);
        let server = Server {
            secret,
            end_point: None,
        };
        assert_eq!(
            talk(server, PLAIN, b"secret", ChannelBinding::unsupported()),
            Ok(false)
        );
    }

    #[test]
    fn what_is_no_message_is_refused_and_nothing_panics() {
        let long = "x".repeat(1000);
        for message in [
            "",
            "n",
            "n,",
            "n,,",
            "n,,n=",
            "n,,n=,",
            "n,,n=,r=",
            "n,,n=,r=a\u{7f}",
            "n,a=me,n=,r=x",
            "n,,m=1,n=,r=x",
            "q,,n=,r=x",
            "p=tls-unique,,n=,r=x",
            "z,,n=,r=x",
            long.as_str(),
            "n,b,n=,r=x",
            "\u{e9},,n=,r=x",
        ] {
            assert!(
                server(None).first(PLAIN.as_bytes(), message.as_bytes()).is_err(),
                "{message}"
            );
        }
        assert!(server(None).first(b"PLAIN", b"n,,n=,r=x").is_err());
        for last in [
            "",
            "c=",
            "c=biws",
            "c=biws,r=x,p=",
            "c=biws,r=x,p=!!!!",
            "p=x",
            ",p=,p=",
        ] {
            let (challenged, _) = server(None).first(PLAIN.as_bytes(), b"n,,n=,r=x").expect("taken");
            assert!(challenged.last(last.as_bytes()).is_err(), "{last}");
        }
        for verifier in [
            "",
            "md5abc",
            "SCRAM-SHA-256$",
            "SCRAM-SHA-256$0:AA==$:",
            "SCRAM-SHA-256$4096:AA==$AA==:AA==",
        ] {
            assert!(Secret::parse(verifier).is_none(), "{verifier}");
        }
    }
}
