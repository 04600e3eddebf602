//! What a client says to prove who it is, and the rules of an operator.

use super::hba::{Applicant, Hba, Method};
use super::scram::{PLAIN, PLUS, Secret, Server, Verdict};

/// A SCRAM conversation: the first byte says whether there is a channel, and the client's two messages are parted by a zero.
/// Nobody is let in against a made-up verifier, whatever is said.
pub fn scram(bytes: &[u8]) {
    let Some((kind, said)) = bytes.split_first() else {
        return;
    };
    let end_point = (kind & 1 == 1).then_some(&b"the hash of a certificate"[..]);
    let mechanism = if kind & 2 == 2 { PLUS } else { PLAIN };
    let mut said = said.splitn(2, |byte| *byte == 0);
    let (first, last) = (said.next().unwrap_or_default(), said.next().unwrap_or_default());
    let server = Server {
        secret: Secret::mock(b"nobody", &[7; 32]),
        end_point,
    };
    let Ok((challenged, challenge)) = server.first(mechanism.as_bytes(), first) else {
        return;
    };
    assert!(mechanism == PLAIN || end_point.is_some(), "bound to no channel");
    // The nonce is random, so a last message is tried as it is, and with the nonce put in its place.
    let nonce = challenge.split(',').next().unwrap_or_default();
    let whole = String::from_utf8_lossy(last).replace("r=NONCE", nonce);
    match challenged.last(whole.as_bytes()) {
        Ok(Verdict::Proved(_)) => panic!("a role that is not there is let in"),
        Ok(Verdict::Wrong) | Err(_) => {}
    }
}

/// A file of rules. What is refused is refused with a line of it.
pub fn hba_rules(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match Hba::parse(&text) {
        Ok(rules) => {
            let applicant = Applicant {
                address: std::net::Ipv4Addr::LOCALHOST.into(),
                encrypted: false,
                database: "postgres",
                user: "ada",
                member_of: &[],
            };
            // Who is a member of more roles, or encrypts, is another applicant; the same one is always told the same.
            assert_eq!(rules.decide(&applicant), rules.decide(&applicant));
            let trusted = rules.decide(&applicant) == Some(Method::Trust);
            assert!(!trusted || text.contains("trust"), "trusted, and no rule says so");
        }
        Err((line, what)) => {
            assert!(
                line >= 1 && line <= text.lines().count().max(1),
                "line {line} is not there"
            );
            assert!(!what.contains('\n'), "an error of more than one line: {what}");
        }
    }
}
