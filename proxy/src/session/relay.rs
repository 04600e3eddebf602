//! A backend's answers on their way to the client: only headers are looked at, and the few messages
//! that say how a statement ended.

use std::collections::{BTreeMap, HashMap};

use bytes::{Buf, Bytes, BytesMut};

use super::captured::CopyPiece;
use super::conn::{Audience, Conn, Expect, Kind, Stake};
use crate::analysis::Places;
use crate::failure::{Failure, Severity};
use crate::protocol::encode::{self, TransactionStatus};
use crate::protocol::fields::Fields;
use crate::protocol::frame::{self, HEADER};
use crate::protocol::{Body, Malformed};

/// What the client has been told, and what the session must know of it.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// The last ParameterStatus of each name.
    pub(crate) parameters: HashMap<Vec<u8>, Vec<u8>>,
    /// Those that have changed since the client was last told, by name, with what it was told. It is told before
    /// ReadyForQuery (`ReportChangedGUCOptions` in guc.c).
    changed: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// An error went to the client since this was last cleared.
    pub(crate) error: bool,
    /// Messages of the client are skipped until its next Sync.
    pub(crate) skip: bool,
    /// A backend waits for the client's CopyData.
    pub(crate) copy_in: bool,
    /// A statement of the client, or a whole Query, has ended since this was last cleared.
    pub(crate) completed: bool,
    /// How often it was told that it is in no transaction.
    pub(crate) idle: u64,
    /// The application's name may be another.
    pub(crate) renamed: bool,
    /// How many characters of the client's Query come before the statement that backends are given: they count from there
    /// where an error is, and the client from the Query's beginning.
    pub(crate) offset: usize,
    /// Where the client's statement stands in the text that backends are given instead of it.
    pub(crate) places: Option<Places>,
    /// What the client knows its session by.
    pub(crate) process_id: i32,
    /// NotificationResponses that it is told of before it is told that it is in no transaction, or while it is in none and has
    /// the word (`ProcessNotifyInterrupt` in async.c).
    notified: BytesMut,
}

/// As many bytes of notifications are kept; with one more they are told at once, as they may be at any time.
const MOST_NOTIFIED: usize = 1 << 20;

impl Told {
    /// For a client that knows its session by this.
    pub(crate) fn of(process_id: i32) -> Told {
        Told {
            process_id,
            ..Told::default()
        }
    }

    /// Where in the client's Query that is which a backend has found at this place.
    fn place(&self, position: usize) -> usize {
        let in_statement = self
            .places
            .as_ref()
            .map_or(position, |places| places.of(position));
        in_statement + self.offset
    }

    /// Tells the client what it has been notified of.
    pub(crate) fn pass_notifications(&mut self, out: &mut BytesMut) {
        if !self.notified.is_empty() {
            out.extend_from_slice(&std::mem::take(&mut self.notified));
        }
    }

    /// Tells the client which parameters have changed, in the order of `guc_name_compare` in guc.c: without regard to case; and
    /// the rest of what comes before ReadyForQuery with this status.
    pub(crate) fn report(&mut self, status: TransactionStatus, out: &mut BytesMut) {
        if status == TransactionStatus::Idle {
            self.pass_notifications(out);
        }
        let mut changed: Vec<_> = std::mem::take(&mut self.changed).into_iter().collect();
        changed.sort_by_key(|(name, _)| name.to_ascii_lowercase());
        for (name, told) in changed {
            if let Some(value) = self
                .parameters
                .get(&name)
                .filter(|value| told.as_ref() != Some(*value))
            {
                encode::parameter_status(out, &name, value);
            }
        }
    }
}

/// What becomes of one message.
enum Verdict {
    Pass,
    /// The parameters that have changed, then the message.
    AfterParameters,
    Drop,
    Instead(Failure),
    /// This failure, then the message.
    After(Failure),
    /// A CopyData message with this body.
    Copy(Bytes),
    /// What the client has been notified of.
    Notifications,
    /// A ParameterDescription of these types.
    Parameters(Vec<u32>),
}

/// Takes all that has arrived from a backend.
///
/// # Errors
/// When it is not what a PostgreSQL would send here: the connection cannot be used any more.
pub(crate) fn relay(
    conn: &mut Conn,
    out: &mut BytesMut,
    told: &mut Told,
    max: usize,
) -> Result<(), Malformed> {
    let mut input = std::mem::take(&mut conn.input);
    let result = relay_all(conn, &mut input, out, told, max);
    conn.input = input;
    result
}

fn relay_all(
    conn: &mut Conn,
    input: &mut BytesMut,
    out: &mut BytesMut,
    told: &mut Told,
    max: usize,
) -> Result<(), Malformed> {
    if conn.passing.0 > 0 {
        let count = conn.passing.0.min(input.len());
        if conn.passing.1 {
            out.extend_from_slice(&input[..count]);
        }
        input.advance(count);
        conn.passing.0 -= count;
    }
    // Messages that pass are copied as one run, not one by one.
    let (mut run, mut at) = (0, 0);
    while let Some(found) =
        frame::peek(&input[at..], max).map_err(|_| Malformed("a backend's message has no sane length"))?
    {
        let here = input.len() - at;
        let whole = here >= found.len;
        let streams = matches!(found.tag, b'D' | b'd') && conn.streams();
        if !whole && !streams {
            break;
        }
        let end = at + found.len.min(here);
        let verdict = conn.judge(found.tag, &input[at..end], told)?;
        if !matches!(verdict, Verdict::Pass) {
            out.extend_from_slice(&input[run..at]);
            run = end;
        }
        match verdict {
            Verdict::Pass | Verdict::Drop => {}
            Verdict::Notifications => told.pass_notifications(out),
            Verdict::Parameters(types) => encode::parameters(out, &types),
            Verdict::AfterParameters => {
                told.report(conn.status, out);
                out.extend_from_slice(&input[at..end]);
            }
            Verdict::Instead(failure) => {
                failure.encode(Severity::Error, out);
                told.error = true;
            }
            Verdict::Copy(body) => encode::message(out, b'd', |out| out.extend_from_slice(&body)),
            Verdict::After(failure) => {
                failure.encode(Severity::Error, out);
                told.error = true;
                told.report(conn.status, out);
                out.extend_from_slice(&input[at..end]);
            }
        }
        if !whole {
            conn.passing = (found.len - here, run != end);
        }
        at = end;
    }
    out.extend_from_slice(&input[run..at]);
    input.advance(at);
    Ok(())
}

impl Conn {
    /// Whether a row may pass before all of it has arrived.
    fn streams(&self) -> bool {
        self.captured.kept.is_none()
            && self.captured.copy.is_none()
            && self.captured.writes.is_none()
            && self.expect.front().is_some_and(|e| {
                !matches!(e.audience, Audience::Session | Audience::Quiet | Audience::Silent)
            })
    }

    fn judge(&mut self, tag: u8, message: &[u8], told: &mut Told) -> Result<Verdict, Malformed> {
        let head = self.expect.front().copied();
        match tag {
            b'D' | b'd' => self.row(head, message),
            b'1' => {
                self.parsing.pop_front();
                self.pop(Kind::Parse)
            }
            b'2' => self.pop(Kind::Bind),
            b'3' if head.is_some_and(|e| e.kind == Kind::CloseStatement) => {
                self.closing.pop_front();
                self.pop(Kind::CloseStatement)
            }
            b'3' => self.pop(Kind::Close),
            b'T' | b'n' if head.is_some_and(|e| e.kind == Kind::Columns) => {
                if let Some(columns) = self.describing.pop_front() {
                    columns.get_or_init(|| columns_of(message).unwrap_or_default());
                }
                self.pop(Kind::Columns)
            }
            b't' | b'T' | b'n'
                if head.is_some_and(|e| e.kind == Kind::Describe)
                    && let Some(described) = &mut self.captured.described =>
            {
                described.push(Bytes::copy_from_slice(message));
                match tag {
                    b't' => Ok(Verdict::Drop),
                    _ => self.pop(Kind::Describe),
                }
            }
            b'T' | b'n' if head.is_some_and(|e| e.kind == Kind::Describe) => self.pop(Kind::Describe),
            b'T' | b'n' if let Some(Expect { kind, .. }) = head.filter(|e| e.but().is_some()) => {
                self.pop(kind)
            }
            b't' if let Some(holes) = head.and_then(|e| e.but()) => {
                let mut types = parameter_types(message)?;
                types.truncate(types.len().saturating_sub(holes));
                Ok(Verdict::Parameters(types))
            }
            b't' if head.is_some_and(|e| e.audience == Audience::Quiet) => {
                self.captured.types = parameter_types(message)?;
                Ok(Verdict::Drop)
            }
            b'T' if head.is_some_and(|e| e.audience == Audience::MergeFirst)
                && self.captured.keep_description(message) =>
            {
                Ok(Verdict::Drop)
            }
            b'T' | b'n' | b't' | b'H' => Ok(described(head)),
            b'c' => Ok(pass_to(head, &[Audience::Client, Audience::Statement])),
            b'C' | b'I' | b's' => {
                told.completed |= is_clients(head);
                self.complete(head, tag, message)
            }
            b'G' => {
                if head.is_some_and(|e| matches!(e.audience, Audience::Client | Audience::Statement)) {
                    told.copy_in = true;
                    return Ok(Verdict::Pass);
                }
                // Whoever asked for it without the client waits for this.
                self.captured.tag = Some("COPY IN".to_owned());
                Ok(Verdict::Drop)
            }
            b'Z' => {
                told.completed |= is_clients(head);
                self.ready(head, message, told)
            }
            b'E' => self.error(head, message, told),
            b'N' => Ok(self.notice(head, message)),
            b'S' => parameter(message, told),
            b'A' => self.notification(message, told),
            _ => Err(Malformed("a backend sent a message that has no place here")),
        }
    }

    fn row(&mut self, head: Option<Expect>, message: &[u8]) -> Result<Verdict, Malformed> {
        let audience = head.map(|e| e.audience);
        if let (Some(writer), Some(Audience::MergeFirst | Audience::MergeNext)) =
            (&mut self.captured.writes, audience)
        {
            let row = writer.row(message.get(HEADER..).unwrap_or_default())?;
            return Ok(Verdict::Copy(row));
        }
        if let (Some(merge), Some(audience @ (Audience::MergeFirst | Audience::MergeNext))) =
            (&mut self.captured.copy, audience)
        {
            let piece = merge.piece(audience, message.get(HEADER..).unwrap_or_default());
            return Ok(match piece {
                CopyPiece::Whole => Verdict::Pass,
                CopyPiece::Nothing => Verdict::Drop,
                CopyPiece::Part(part) => Verdict::Copy(Bytes::copy_from_slice(part)),
            });
        }
        Ok(match audience {
            Some(Audience::MergeFirst | Audience::MergeNext) if self.captured.keep(message) => Verdict::Drop,
            Some(Audience::Client | Audience::Statement | Audience::MergeFirst | Audience::MergeNext) => {
                Verdict::Pass
            }
            Some(Audience::Session | Audience::Quiet) => {
                self.captured.value = first_value(message);
                Verdict::Drop
            }
            _ => Verdict::Drop,
        })
    }

    /// An answer of one message has come.
    fn pop(&mut self, kind: Kind) -> Result<Verdict, Malformed> {
        match self.expect.pop_front() {
            Some(e) if e.kind == kind => Ok(match e.audience {
                Audience::Client | Audience::Statement | Audience::MergeFirst => Verdict::Pass,
                _ => Verdict::Drop,
            }),
            _ => Err(Malformed("a backend's answers are out of order")),
        }
    }

    /// A statement has ended well, or rests.
    fn complete(&mut self, head: Option<Expect>, tag: u8, message: &[u8]) -> Result<Verdict, Malformed> {
        let Some(head) = head else {
            return Err(Malformed("a backend ended a statement that it was not given"));
        };
        match head.kind {
            Kind::Execute | Kind::Import => {
                self.expect.pop_front();
            }
            Kind::Query => {}
            _ => return Err(Malformed("a backend's answers are out of order")),
        }
        if tag == b'C'
            && message
                .get(HEADER..)
                .is_some_and(|tag| tag.starts_with(b"DECLARE"))
        {
            self.declared += 1;
        }
        // Its success is not to be believed: syncrep.c reports it although only its own disk has it.
        let unknown = std::mem::take(&mut self.commit_unconfirmed);
        match head.audience {
            Audience::Client | Audience::Statement if unknown => {
                Ok(Verdict::Instead(Failure::CommitUnconfirmed { group: self.group }))
            }
            Audience::Client | Audience::Statement => Ok(Verdict::Pass),
            Audience::Silent => Ok(Verdict::Drop),
            _ if unknown => {
                self.captured
                    .error
                    .get_or_insert(Failure::CommitUnconfirmed { group: self.group });
                Ok(Verdict::Drop)
            }
            _ => {
                if tag == b'C' {
                    let text = Body::new(&message[HEADER..]).cstr()?;
                    let text = String::from_utf8_lossy(text).into_owned();
                    let count = text.rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
                    self.captured.counted += count;
                    self.captured.tag = Some(text);
                }
                Ok(Verdict::Drop)
            }
        }
    }

    fn ready(&mut self, head: Option<Expect>, message: &[u8], told: &mut Told) -> Result<Verdict, Malformed> {
        let Some(Expect {
            kind: Kind::Sync | Kind::Query,
            audience,
            ..
        }) = head
        else {
            return Err(Malformed("a backend is ready although more answers were due"));
        };
        self.expect.pop_front();
        self.begun_since = false;
        self.status = TransactionStatus::read(message.get(HEADER)).ok_or(Malformed("no such status"))?;
        if self.status == TransactionStatus::Idle {
            self.stale_portals.clear();
        }
        self.status_is_clients = matches!(audience, Audience::Client | Audience::Statement);
        self.errored = false;
        let unknown = std::mem::take(&mut self.commit_unconfirmed);
        told.idle += u64::from(audience == Audience::Client && self.status == TransactionStatus::Idle);
        match audience {
            Audience::Client if unknown => {
                Ok(Verdict::After(Failure::CommitUnconfirmed { group: self.group }))
            }
            Audience::Client if told.changed.is_empty() && told.notified.is_empty() => Ok(Verdict::Pass),
            Audience::Client => Ok(Verdict::AfterParameters),
            Audience::Silent | Audience::Statement if unknown => {
                Ok(Verdict::Instead(Failure::CommitUnconfirmed { group: self.group }))
            }
            _ => {
                if unknown {
                    self.captured
                        .error
                        .get_or_insert(Failure::CommitUnconfirmed { group: self.group });
                }
                Ok(Verdict::Drop)
            }
        }
    }

    /// Who has notified is told as PostgreSQL does, by its process id: the client's own as the client knows it.
    fn notification(&mut self, message: &[u8], told: &mut Told) -> Result<Verdict, Malformed> {
        let mut body = Body::new(&message[HEADER..]);
        let by = body.i32()?;
        let by = if by == self.process_id {
            told.process_id
        } else {
            by
        };
        told.notified.extend_from_slice(&message[..HEADER]);
        told.notified.extend_from_slice(&by.to_be_bytes());
        told.notified.extend_from_slice(&message[HEADER + 4..]);
        Ok(if told.notified.len() > MOST_NOTIFIED {
            Verdict::Notifications
        } else {
            Verdict::Drop
        })
    }

    fn error(&mut self, head: Option<Expect>, message: &[u8], told: &mut Told) -> Result<Verdict, Malformed> {
        let fields = Fields::read(&message[HEADER..]);
        if fields.ends_the_backend() {
            self.last_words = Some(fields);
            return Ok(Verdict::Drop);
        }
        let Some(head) = head else {
            return Err(Malformed("a backend reported an error about nothing"));
        };
        self.errored = true;
        if is_clients(Some(head)) {
            // Of the rows that the client still sends PostgreSQL takes none.
            told.copy_in = false;
        }
        let own = if fields.code == "57014" {
            self.cancels.take()
        } else {
            None
        };
        if !matches!(head.kind, Kind::Query | Kind::Sync) {
            let whole = self.skip_to_sync();
            // What the session asked for itself, it reports itself.
            told.skip |= whole && matches!(head.audience, Audience::Client | Audience::Silent);
        }
        // `ImportSnapshot` in snapmgr.c: there is no such snapshot, or the transaction that exported it has ended.
        let lost = head.kind == Kind::Import && matches!(&*fields.code, "22023" | "55000");
        match head.audience {
            _ if lost => Ok(Verdict::Instead(Failure::SnapshotLost { group: self.group })),
            Audience::Client | Audience::Statement | Audience::Silent => match own {
                Some(reason) => Ok(Verdict::Instead(reason.into())),
                None if told.offset > 0 || told.places.is_some() => {
                    let failure = Failure::Postgres(Bytes::copy_from_slice(message));
                    Ok(Verdict::Instead(failure.moved(|position| told.place(position))))
                }
                None => {
                    told.error = true;
                    Ok(Verdict::Pass)
                }
            },
            _ => {
                self.captured.error.get_or_insert_with(|| match own {
                    Some(reason) => reason.into(),
                    None => {
                        let failure = Failure::Postgres(Bytes::copy_from_slice(message));
                        failure.moved(|position| told.place(position))
                    }
                });
                Ok(Verdict::Drop)
            }
        }
    }

    /// After an error PostgreSQL skips everything until Sync; so do the answers that were due.
    /// Whether the Sync is still to be sent by the client.
    fn skip_to_sync(&mut self) -> bool {
        while let Some(next) = self.expect.front().copied() {
            match next.kind {
                Kind::Sync => return false,
                Kind::Query => {
                    // It skips this Query too, as our BEGIN before it failed: end the skipping.
                    encode::empty(&mut self.output, b'S');
                    self.unsynced = false;
                    if let Some(front) = self.expect.front_mut() {
                        front.kind = Kind::Sync;
                    }
                    return false;
                }
                Kind::Parse => self.forget_parse(),
                Kind::CloseStatement => self.forget_close(),
                Kind::Columns => drop(self.describing.pop_front()),
                _ => {}
            }
            self.expect.pop_front();
        }
        true
    }

    fn notice(&mut self, head: Option<Expect>, message: &[u8]) -> Verdict {
        if Fields::read(&message[HEADER..]).says_commit_is_unknown() {
            self.commit_unconfirmed = true;
        }
        match head.map(|e| e.audience) {
            Some(Audience::Silent | Audience::Quiet) => Verdict::Drop,
            _ => Verdict::Pass,
        }
    }
}

fn is_clients(head: Option<Expect>) -> bool {
    head.is_some_and(|e| matches!(e.audience, Audience::Client | Audience::Statement))
}

fn described(head: Option<Expect>) -> Verdict {
    pass_to(
        head,
        &[Audience::Client, Audience::Statement, Audience::MergeFirst],
    )
}

fn pass_to(head: Option<Expect>, audiences: &[Audience]) -> Verdict {
    match head {
        Some(head) if audiences.contains(&head.audience) => Verdict::Pass,
        _ => Verdict::Drop,
    }
}

/// Whoever asked for the change, and whatever it is on the way to: the client is told of what holds in the end.
fn parameter(message: &[u8], told: &mut Told) -> Result<Verdict, Malformed> {
    let mut body = Body::new(&message[HEADER..]);
    let (name, value) = (body.cstr()?, body.cstr()?);
    if told.parameters.get(name).is_none_or(|known| known != value) {
        let before = told.parameters.insert(name.to_vec(), value.to_vec());
        told.changed.entry(name.to_vec()).or_insert(before);
    }
    told.renamed |= name == b"application_name";
    Ok(Verdict::Drop)
}

/// The first OID that is not PostgreSQL's own (FirstNormalObjectId): such types have another one in each group.
const FIRST_OF_USERS: i32 = 16_384;

/// A RowDescription, as far as it must stay the same while a client holds it: names and types (`equalTupleDescs`).
/// Nothing for NoData.
pub(crate) fn columns_of(message: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut columns = Vec::new();
    if message.first() != Some(&b'T') {
        return Ok(columns);
    }
    let mut body = Body::new(&message[HEADER..]);
    for _ in 0..body.i16()? {
        columns.extend_from_slice(body.cstr()?);
        columns.push(0);
        let (_table, _column) = (body.i32()?, body.i16()?);
        let (type_oid, _size, modifier, _format) = (body.i32()?, body.i16()?, body.i32()?, body.i16()?);
        let known = if (0..FIRST_OF_USERS).contains(&type_oid) {
            type_oid
        } else {
            0
        };
        columns.extend(known.to_be_bytes());
        columns.extend(modifier.to_be_bytes());
    }
    Ok(columns)
}

/// What a ParameterDescription says.
pub(crate) fn parameter_types(message: &[u8]) -> Result<Vec<u32>, Malformed> {
    let mut body = Body::new(&message[HEADER..]);
    let count = u16::from_be_bytes(body.i16()?.to_be_bytes());
    (0..count)
        .map(|_| Ok(u32::from_be_bytes(body.i32()?.to_be_bytes())))
        .collect()
}

fn first_value(message: &[u8]) -> Option<Bytes> {
    let mut body = Body::new(message.get(HEADER..)?);
    body.i16().ok()?;
    let len = usize::try_from(body.i32().ok()?).ok()?;
    body.bytes(len).ok().map(Bytes::copy_from_slice)
}

/// What the client is told of the answers that a broken connection still owed.
pub(crate) struct Unanswered {
    /// A part of a pipeline without its Sync is among them: skip until it comes.
    pub(crate) skip: bool,
    /// How many of the client's Query or Sync were not answered.
    pub(crate) ended: usize,
}

/// Answers in place of a backend whose connection ended.
pub(crate) fn answer_for(
    conn: &Conn,
    why: &str,
    status: TransactionStatus,
    out: &mut BytesMut,
) -> Unanswered {
    let mut unanswered = Unanswered {
        skip: false,
        ended: 0,
    };
    let mut told = conn.errored;
    let (mut open, mut stake) = (conn.unsynced && conn.expect.is_empty(), Stake::Nothing);
    let failure = |stake| match stake {
        Stake::Nothing => Failure::Broken {
            group: conn.group,
            why: why.to_owned(),
        },
        Stake::Commit => Failure::CommitBroken {
            group: conn.group,
            why: why.to_owned(),
        },
    };
    for due in &conn.expect {
        if !matches!(
            due.audience,
            Audience::Client | Audience::Statement | Audience::Silent
        ) {
            continue;
        }
        open = true;
        stake = stake.max(due.stake);
        if matches!(due.kind, Kind::Sync | Kind::Query) {
            if !told {
                failure(stake).encode(Severity::Error, out);
            }
            if due.audience == Audience::Client {
                encode::ready(out, status);
                unanswered.ended += 1;
            }
            (told, open, stake) = (false, false, Stake::Nothing);
        }
    }
    if open || conn.unsynced {
        if !told {
            failure(stake).encode(Severity::Error, out);
        }
        unanswered.skip = true;
    }
    unanswered
}
