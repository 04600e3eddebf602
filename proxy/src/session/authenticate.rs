//! How a client proves who it is, before it has a session.

use bytes::{Buf, BufMut, BytesMut};
use coordinator::roles::{Door, Role};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::login::Login;
use super::stranger::Stranger;
use crate::Shared;
use crate::access::scram::{Secret, Server, Verdict};
use crate::access::{Applicant, Method};
use crate::analysis::Refusal;
use crate::failure::{Ended, Failure};
use crate::protocol::frame::{self, HEADER};
use crate::protocol::{Body, Malformed, encode};

/// The longest answer to AuthenticationSASL (PG_MAX_SASL_MESSAGE_LENGTH), with its header.
const LONGEST_ANSWER: usize = 1024 + HEADER;

/// The kinds of an Authentication message.
const OK: u32 = 0;
const SASL: u32 = 10;
const SASL_CONTINUE: u32 = 11;
const SASL_FINAL: u32 = 12;

impl Stranger {
    /// Has the client prove who it is, by the rule that fits it; gives what is known of its role, which may log in.
    pub(super) async fn authenticate(&mut self, login: &Login, shared: &Shared) -> Result<Role, Ended> {
        let role = look_up(login, shared).await?;
        let method = shared.hba.decide(&Applicant {
            address: self.address,
            encrypted: self.is_encrypted(),
            database: &login.database_text(),
            user: &login.user_text(),
            member_of: role.as_ref().map_or(&[][..], |role| &role.member_of[..]),
        });
        match method {
            Some(Method::Trust) => {}
            Some(Method::Scram) => self.scram(login, role.as_ref(), shared).await?,
            Some(Method::Reject) => return Err(self.not_let_in("pg_hba.conf rejects connection", login)),
            None => return Err(self.not_let_in("no pg_hba.conf entry", login)),
        }
        let role = check(role, login).map_err(fatal)?;
        encode::message(&mut self.output, b'R', |out| out.put_u32(OK));
        Ok(role)
    }

    fn not_let_in(&self, why: &str, login: &Login) -> Ended {
        let encryption = if self.is_encrypted() {
            "SSL encryption"
        } else {
            "no encryption"
        };
        let words = format!(
            "{why} for host \"{}\", user \"{}\", database \"{}\", {encryption}",
            self.address.to_canonical(),
            login.user_text(),
            login.database_text()
        );
        Ended::Fatal(Refusal::new("28000", words).into())
    }

    /// `CheckSASLAuth`: two messages from the client, and nobody learns from ours whether there is such a role.
    async fn scram(&mut self, login: &Login, role: Option<&Role>, shared: &Shared) -> Result<(), Ended> {
        let (secret, doubt) = match verifier(role) {
            Ok(secret) => (secret, "the password does not match"),
            Err(doubt) => (
                Secret::mock(&login.user, &shared.mock_authentication_nonce),
                doubt,
            ),
        };
        let tls = shared.tls.clone().filter(|_| self.is_encrypted());
        let end_point = tls.as_ref().and_then(|tls| tls.end_point());
        let server = Server { secret, end_point };
        encode::message(&mut self.output, b'R', |out| {
            out.put_u32(SASL);
            for mechanism in server.mechanisms() {
                encode::cstr(out, mechanism.as_bytes());
            }
            out.put_u8(0);
        });
        let answer = self.answer().await?;
        let mut body = Body::new(&answer);
        let mechanism = body.cstr().map_err(fatal)?;
        let length = body.i32().map_err(fatal)?;
        // -1 is no message at all, which neither mechanism begins with.
        let first = match usize::try_from(length) {
            Ok(length) if length == body.rest().len() => body.rest(),
            _ => {
                return Err(fatal(Malformed("a SASL response of another length")));
            }
        };
        let (challenged, challenge) = server.first(mechanism, first).map_err(fatal)?;
        self.sasl(SASL_CONTINUE, &challenge);
        let answer = self.answer().await?;
        match challenged.last(&answer).map_err(fatal)? {
            Verdict::Proved(proof) => {
                self.sasl(SASL_FINAL, &proof);
                Ok(())
            }
            Verdict::Wrong => {
                let (user, address) = (login.user_text(), self.address);
                tracing::info!(?user, %address, "password authentication failed: {doubt}");
                Err(Ended::Fatal(Failure::WrongPassword(user.into_owned())))
            }
        }
    }

    fn sasl(&mut self, kind: u32, data: &str) {
        encode::message(&mut self.output, b'R', |out| {
            out.put_u32(kind);
            out.put_slice(data.as_bytes());
        });
    }

    /// Sends what there is to send, and reads the body of the message that answers it.
    async fn answer(&mut self) -> Result<BytesMut, Ended> {
        let stream = self.stream.as_mut().ok_or(Ended::ByClient)?;
        let sent = async {
            stream.write_all_buf(&mut self.output).await?;
            stream.flush().await
        };
        sent.await.map_err(|_| Ended::ByClient)?;
        loop {
            if let Some(tag) = self.input.first().filter(|tag| **tag != b'p') {
                let words = format!("expected SASL response, got message type {tag}");
                return Err(fatal(Refusal::new("08P01", words)));
            }
            let found = frame::peek(&self.input, LONGEST_ANSWER).map_err(fatal)?;
            if let Some(found) = found.filter(|found| found.len <= self.input.len()) {
                let mut message = self.input.split_to(found.len);
                message.advance(HEADER);
                return Ok(message);
            }
            match stream.read_buf(&mut self.input).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Err(Ended::ByClient),
            }
        }
    }
}

fn fatal(error: impl Into<Failure>) -> Ended {
    Ended::Fatal(error.into())
}

/// What PostgreSQL knows of the role that the client says it is.
async fn look_up(login: &Login, shared: &Shared) -> Result<Option<Role>, Ended> {
    // Roles and databases are made through nodes, which take UTF-8 only.
    let (Ok(user), Ok(database)) = (
        std::str::from_utf8(&login.user),
        std::str::from_utf8(&login.database),
    ) else {
        return Ok(None);
    };
    let patience = shared.limits.leader_wait;
    let found = shared.roles.look_up(user, database, patience).await;
    found.map_err(|error| Ended::Fatal(Failure::Roles(error.to_string())))
}

/// What PostgreSQL asks of a role whenever a session begins (`InitializeSessionUserId`, `CheckMyDatabase`). The session may get a
/// backend that began before.
fn check(role: Option<Role>, login: &Login) -> Result<Role, Refusal> {
    let (user, database) = (login.user_text(), login.database_text());
    let Some(role) = role else {
        return Err(Refusal::new("28000", format!("role \"{user}\" does not exist")));
    };
    if !role.may_log_in {
        let words = format!("role \"{user}\" is not permitted to log in");
        return Err(Refusal::new("28000", words));
    }
    match role.database {
        Some(Door::Shut) => {
            let words = format!("database \"{database}\" is not currently accepting connections");
            Err(Refusal::new("55000", words))
        }
        Some(Door::NotForIt) => {
            let words = format!("permission denied for database \"{database}\"");
            Err(Refusal::new("42501", words).detail("User does not have CONNECT privilege."))
        }
        Some(Door::Open) | None => Ok(role),
    }
}

/// What the role's password is checked against, or why no password is right (`get_role_password`, `scram_init`): for the log
/// only, since it would tell a stranger that there is such a role.
fn verifier(role: Option<&Role>) -> Result<Secret, &'static str> {
    let role = role.ok_or("there is no such role")?;
    let verifier = role.verifier.as_deref().ok_or("the role has no password")?;
    if role.expired {
        return Err("the password is no longer valid (VALID UNTIL)");
    }
    Secret::parse(verifier).ok_or(
        "the role's password is kept as MD5: set it again while password_encryption is scram-sha-256, which it is by default",
    )
}
