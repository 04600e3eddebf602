//! When the transactions of an anomaly ran, and what was broken around them.

use std::fmt::Write;

use super::super::words;
use super::{Actor, cut, escaped, seconds};
use crate::Result;
use crate::history::{Edn, History, Kind, Op, Process};

/// The line is so long at least, and else as long as the cards are wide.
const WIDTH: usize = 860;
/// Right of the line: room for the last time.
const BESIDE: usize = 40;
/// Left of the line: the names.
const NAMES: u64 = 60;
const ROW: usize = 18;
const HEAD: usize = 34;
/// Faults are shown from so long before the first transaction to so long after the last one, or as
/// long as the transactions took where that is more.
const AROUND: u64 = 10_000_000_000;
/// More faults are not shown.
const MOST_FAULTS: usize = 24;

/// A fault, or the healing of one.
struct Fault<'a> {
    op: &'a Op,
    until: Option<u64>,
}

/// The part of the history that is shown.
struct Window {
    from: u64,
    to: u64,
    /// Where the line ends.
    end: u64,
}

impl Window {
    fn of(history: &History, actors: &[Actor<'_>], width: usize) -> Window {
        let last = history.ops.last().map_or(0, |op| op.time);
        let began = actors.iter().map(|actor| actor.times().0).min().unwrap_or(0);
        let ended = actors.iter().map(|actor| actor.times().1.unwrap_or(last)).max();
        let ended = ended.unwrap_or(last).max(began);
        let around = AROUND.max(ended - began);
        Window {
            from: began.saturating_sub(around),
            to: ended.saturating_add(around).min(last.max(ended)).max(1),
            end: width.saturating_sub(BESIDE).max(WIDTH) as u64,
        }
    }

    fn x(&self, time: u64) -> u64 {
        let span = u128::from(self.to.saturating_sub(self.from).max(1));
        let into = u128::from(time.clamp(self.from, self.to) - self.from);
        NAMES + u64::try_from(into * u128::from(self.end - NAMES) / span).unwrap_or(0)
    }

    fn has(&self, time: u64) -> bool {
        (self.from..=self.to).contains(&time)
    }
}

/// A line of the nemesis is a fault; where it recorded an invocation and a completion, a fault that
/// takes a while.
fn faults<'a>(history: &'a History, window: &Window) -> Vec<Fault<'a>> {
    let mut faults: Vec<Fault<'a>> = Vec::new();
    for op in history.ops.iter().filter(|op| op.process == Process::Nemesis) {
        let open = faults.iter_mut().rev().find(|fault| {
            op.kind != Kind::Invoke
                && fault.op.kind == Kind::Invoke
                && fault.op.f == op.f
                && fault.until.is_none()
        });
        match open {
            Some(fault) => fault.until = Some(op.time),
            None => faults.push(Fault { op, until: None }),
        }
    }
    faults.retain(|fault| window.has(fault.op.time) || fault.until.is_some_and(|until| window.has(until)));
    // The last ones are nearest to what went wrong.
    let surplus = faults.len().saturating_sub(MOST_FAULTS);
    faults.split_off(surplus)
}

/// Width and height, where so much width is there.
pub(super) fn size(history: &History, actors: &[Actor<'_>], width: usize) -> (usize, usize) {
    let rows = actors.len() + faults(history, &Window::of(history, actors, width)).len();
    (width.max(WIDTH + BESIDE), HEAD + rows * ROW + 30)
}

/// Draws them in so much width.
pub(super) fn draw(out: &mut String, history: &History, actors: &[Actor<'_>], width: usize) -> Result<()> {
    let window = Window::of(history, actors, width);
    let faults = faults(history, &window);
    let bottom = HEAD + (actors.len() + faults.len()) * ROW;
    writeln!(out, "<text class=\"name\" y=\"18\">Times and faults</text>")?;
    for (row, actor) in actors.iter().enumerate() {
        let y = HEAD + row * ROW;
        let (began, ended) = actor.times();
        let (x, to) = (window.x(began), window.x(ended.unwrap_or(window.to)));
        let width = (to - x).max(3);
        writeln!(
            out,
            "<text class=\"name\" y=\"{}\">{}</text>",
            y + 12,
            escaped(&actor.name)
        )?;
        writeln!(
            out,
            "<rect class=\"span\" x=\"{x}\" y=\"{}\" width=\"{width}\" height=\"10\"><title>{} to {}</title></rect>",
            y + 3,
            seconds(began),
            ended.map_or_else(|| "the end".to_owned(), seconds)
        )?;
    }
    for (row, fault) in faults.iter().enumerate() {
        draw_fault(out, &window, fault, HEAD + (actors.len() + row) * ROW, bottom)?;
    }
    axis(out, &window, bottom)
}

fn draw_fault(out: &mut String, window: &Window, fault: &Fault<'_>, y: usize, bottom: usize) -> Result<()> {
    let x = window.x(fault.op.time);
    let height = bottom - HEAD;
    if let Some(until) = fault.until {
        let width = (window.x(until) - x).max(1);
        writeln!(
            out,
            "<rect class=\"during\" x=\"{x}\" y=\"{HEAD}\" width=\"{width}\" height=\"{height}\"/>"
        )?;
    }
    let value = match &fault.op.value {
        Edn::Nil => String::new(),
        value => format!(" {}", words::value(value)),
    };
    let words = escaped(&cut(&format!("{}{value}", fault.op.f), 60));
    writeln!(
        out,
        "<line class=\"fault\" x1=\"{x}\" y1=\"{HEAD}\" x2=\"{x}\" y2=\"{bottom}\"/>"
    )?;
    // Beside its line, on the side where there is room.
    let (x, anchor) = if x > window.end * 2 / 3 {
        (x - 5, "end")
    } else {
        (x + 5, "start")
    };
    writeln!(
        out,
        "<text x=\"{x}\" y=\"{}\" text-anchor=\"{anchor}\">{words}</text>",
        y + 13
    )?;
    Ok(())
}

fn axis(out: &mut String, window: &Window, y: usize) -> Result<()> {
    writeln!(
        out,
        "<line class=\"axis\" x1=\"{NAMES}\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\"/>",
        window.end
    )?;
    for tick in 0..=4 {
        let time = window.from + (window.to - window.from) / 4 * tick;
        let x = window.x(time);
        writeln!(
            out,
            "<line class=\"axis\" x1=\"{x}\" y1=\"{y}\" x2=\"{x}\" y2=\"{}\"/>\
             <text class=\"faint\" x=\"{x}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            y + 5,
            y + 19,
            seconds(time)
        )?;
    }
    Ok(())
}
