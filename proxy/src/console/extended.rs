//! The console by the extended protocol: drivers that know no other work, with results in text or binary.

use std::collections::HashMap;
use std::sync::Arc;

use shard::client::Backend;

use super::parse::{self, Command, Courtesy};
use super::table::{self, Columns, Formats, Table};
use super::{Console, Halted};
use crate::analysis::Refusal;
use crate::failure::{Ended, Failure};
use crate::protocol::frontend::{Execute, Named, Parse};
use crate::protocol::{Body, Malformed, encode, frame};

/// Prepared statements, and portals, that an operator may hold.
const MAX_HELD: usize = 100;

/// What Parse and Bind have made.
#[derive(Debug, Default)]
pub(super) struct Statements {
    prepared: HashMap<Vec<u8>, Arc<Command>>,
    portals: HashMap<Vec<u8>, Portal>,
}

#[derive(Debug)]
struct Portal {
    command: Arc<Command>,
    formats: Formats,
    progress: Progress,
}

#[derive(Debug)]
enum Progress {
    Fresh,
    /// Rows from this place on are still to be had.
    Rests(Table, usize),
    Done,
}

fn columns(command: &Command) -> Option<Columns> {
    match command {
        Command::Show(subject) => Some(subject.columns()),
        _ => None,
    }
}

fn named(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

impl<S: Backend> Console<S> {
    /// Handles a message of the extended protocol, and refuses others.
    pub(super) async fn extended(&mut self, tag: u8, body: &[u8]) -> Result<(), Ended> {
        if tag == b'S' {
            self.skip = false;
            if !self.in_block {
                self.statements.portals.clear();
            }
            self.ready();
            return Ok(());
        }
        if tag == b'F' {
            let refusal = Refusal::unsupported("function calls by protocol are not supported");
            self.tell(Err(refusal.into()))?;
            self.skip = false;
            self.ready();
            return Ok(());
        }
        if self.skip {
            return Ok(());
        }
        let done = match tag {
            b'P' => self.parse(body),
            b'B' => self.bind(body),
            b'D' => self.describe(body),
            b'E' => self.execute(body).await,
            b'C' => self.close_named(body),
            // Flush: whatever was answered goes out anyway. COPY's messages are ignored, as PostgreSQL does.
            b'H' | b'd' | b'c' | b'f' => Ok(()),
            _ => Err(Halted::End(Ended::Fatal(
                frame::FrameError::UnknownType(tag).into(),
            ))),
        };
        self.tell(done)
    }

    fn parse(&mut self, body: &[u8]) -> Result<(), Halted> {
        let parse = Parse::read(body)?;
        let text = std::str::from_utf8(parse.query)
            .map_err(|_| Refusal::new("22021", "invalid byte sequence for encoding \"UTF8\""))?;
        let command = parse::parse(text)?;
        let prepared = &mut self.statements.prepared;
        if !parse.name.is_empty() {
            if prepared.contains_key(parse.name) {
                return Err(Failure::StatementExists(named(parse.name)).into());
            }
            if prepared.len() >= MAX_HELD {
                return Err(Failure::TooManyStatements(MAX_HELD).into());
            }
        }
        prepared.insert(parse.name.to_vec(), Arc::new(command));
        encode::empty(&mut self.output, b'1');
        Ok(())
    }

    fn bind(&mut self, body: &[u8]) -> Result<(), Halted> {
        let (portal, statement, formats) = read_bind(body)?;
        let Some(command) = self.statements.prepared.get(statement) else {
            return Err(Failure::NoStatement(named(statement)).into());
        };
        let count = columns(command).map_or(0, <[_]>::len);
        if !formats.fit(count) {
            let given = formats.0.len();
            let words = format!("bind message has {given} result formats but query has {count} columns");
            return Err(Refusal::new("08P01", words).into());
        }
        let portals = &mut self.statements.portals;
        if portals.len() >= MAX_HELD && !portals.contains_key(portal) {
            return Err(Refusal::new("53400", format!("the console holds {MAX_HELD} portals")).into());
        }
        let opened = Portal {
            command: Arc::clone(command),
            formats,
            progress: Progress::Fresh,
        };
        portals.insert(portal.to_vec(), opened);
        encode::empty(&mut self.output, b'2');
        Ok(())
    }

    fn describe(&mut self, body: &[u8]) -> Result<(), Halted> {
        let text = Formats::default();
        let (command, formats) = match Named::read(body)? {
            Named::Statement(name) => {
                let Some(command) = self.statements.prepared.get(name) else {
                    return Err(Failure::NoStatement(named(name)).into());
                };
                encode::parameters(&mut self.output, &[]);
                (command, &text)
            }
            Named::Portal(name) => match self.statements.portals.get(name) {
                Some(portal) => (&portal.command, &portal.formats),
                None => return Err(Failure::NoPortal(named(name)).into()),
            },
        };
        match columns(command) {
            Some(columns) => table::describe(&mut self.output, columns, formats),
            None => encode::empty(&mut self.output, b'n'),
        }
        Ok(())
    }

    async fn execute(&mut self, body: &[u8]) -> Result<(), Halted> {
        let execute = Execute::read(body)?;
        let Some(mut portal) = self.statements.portals.remove(execute.portal) else {
            return Err(Failure::NoPortal(named(execute.portal)).into());
        };
        if let Progress::Fresh = portal.progress {
            let answer = self.run(&portal.command).await?;
            self.notices(&answer);
            portal.progress = match answer.table {
                Some(table) => Progress::Rests(table, 0),
                None => Progress::Done,
            };
        }
        let mut suspended = false;
        if let Progress::Rests(table, at) = &mut portal.progress {
            let limit = usize::try_from(execute.limit).ok().filter(|limit| *limit > 0);
            let end = limit.map_or(table.rows.len(), |limit| table.rows.len().min(*at + limit));
            for row in &table.rows[*at..end] {
                table::row(&mut self.output, row, &portal.formats);
            }
            suspended = end < table.rows.len();
            *at = end;
        }
        if suspended {
            encode::empty(&mut self.output, b's');
        } else {
            portal.progress = Progress::Done;
            match &*portal.command {
                Command::Empty => encode::empty(&mut self.output, b'I'),
                command => encode::command_complete(&mut self.output, command.tag()),
            }
        }
        let ends = matches!(
            &*portal.command,
            Command::Courtesy(Courtesy::Commit | Courtesy::Rollback)
        );
        if !ends {
            self.statements.portals.insert(execute.portal.to_vec(), portal);
        }
        Ok(())
    }

    fn close_named(&mut self, body: &[u8]) -> Result<(), Halted> {
        match Named::read(body)? {
            Named::Statement(name) => drop(self.statements.prepared.remove(name)),
            Named::Portal(name) => drop(self.statements.portals.remove(name)),
        }
        encode::empty(&mut self.output, b'3');
        Ok(())
    }
}

/// Bind: the portal, the statement, and the formats of the result. There are no parameters.
fn read_bind(body: &[u8]) -> Result<(&[u8], &[u8], Formats), Failure> {
    let mut body = Body::new(body);
    let (portal, statement) = (body.cstr()?, body.cstr()?);
    let formats = usize::try_from(body.i16()?).map_err(|_| Malformed("a number of formats is negative"))?;
    body.bytes(formats * 2)?;
    if body.i16()? != 0 {
        let words = "bind message supplies parameters, but the statement has none";
        return Err(Refusal::new("08P01", words).into());
    }
    let count = usize::try_from(body.i16()?).map_err(|_| Malformed("a number of formats is negative"))?;
    let mut wanted = Vec::with_capacity(count.min(64));
    for _ in 0..count {
        wanted.push(body.i16()?);
    }
    if !body.is_empty() {
        return Err(Malformed("a message is longer than its fields").into());
    }
    Ok((portal, statement, Formats(wanted.into())))
}
