//! An anomaly as a picture: its transactions as cards, in the order in which they began and in a lane
//! for each process; its edges as arrows; and below, their times and those of the faults.

mod cards;
mod timeline;

use std::fmt::Write;

use self::cards::Cards;
use super::pairs::{self, Operation};
use super::{Anomaly, Dependency};
use crate::Result;
use crate::history::History;

const MARGIN: usize = 24;

/// Draws an anomaly of a history as SVG.
///
/// # Errors
/// Where the anomaly is not one of this history.
pub fn svg(history: &History, anomaly: &Anomaly) -> Result<String> {
    let operations = pairs::operations(history)?;
    let mut actors: Vec<Actor<'_>> = Vec::new();
    for (place, index) in anomaly.ops.iter().enumerate() {
        let operation = operations
            .binary_search_by_key(index, Operation::index)
            .map(|at| operations[at])
            .map_err(|_| format!("the history has no operation with index {index}"))?;
        if actors.iter().all(|actor| actor.operation.index() != *index) {
            let name = format!("T{}", place + 1);
            actors.push(Actor { name, operation });
        }
    }
    actors.sort_by_key(|actor| actor.operation.began);
    let cards = Cards::of(&actors);
    let top = MARGIN + 28;
    let (card_width, card_height) = cards.size(anomaly);
    let (line_width, line_height) = timeline::size(history, &actors, card_width);
    let width = line_width + 2 * MARGIN;
    let height = top + card_height + line_height + MARGIN;
    let mut out = String::new();
    head(&mut out, width, height, anomaly)?;
    writeln!(out, "<g transform=\"translate({MARGIN} {top})\">")?;
    cards.draw(&mut out, anomaly)?;
    writeln!(out, "</g>")?;
    let below = top + card_height;
    writeln!(out, "<g transform=\"translate({MARGIN} {below})\">")?;
    timeline::draw(&mut out, history, &actors, line_width)?;
    writeln!(out, "</g>\n</svg>")?;
    Ok(out)
}

/// An operation in the picture.
struct Actor<'a> {
    /// What the words of the anomaly call it.
    name: String,
    operation: Operation<'a>,
}

impl Actor<'_> {
    /// When it began, and when it was over as far as it is known, in nanoseconds.
    fn times(&self) -> (u64, Option<u64>) {
        let ended = self.operation.completion.map(|completion| completion.time);
        (self.operation.invocation.time, ended)
    }
}

const STYLE: &str = "\
text { font: 12px sans-serif; fill: #222 }
.mono { font: 12px monospace }
.title { font: bold 16px sans-serif }
.name { font-weight: bold }
.faint { fill: #777 }
.card { fill: #f7f9fc; stroke: #5b6b7f }
.doubtful { stroke-dasharray: 5 3 }
.edge { fill: none; stroke-width: 1.8 }
.label { font-weight: bold; paint-order: stroke; stroke: white; stroke-width: 5px }
.span { fill: #9db4d0 }
.fault { stroke: #b3261e; stroke-width: 1.5 }
.during { fill: #b3261e; fill-opacity: 0.15 }
.axis { stroke: #999 }";

fn head(out: &mut String, width: usize, height: usize, anomaly: &Anomaly) -> Result<()> {
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\">"
    )?;
    writeln!(out, "<title>{}</title>", escaped(&anomaly.name.to_string()))?;
    writeln!(out, "<desc>{}</desc>", escaped(&anomaly.words))?;
    writeln!(out, "<style>\n{STYLE}\n</style>\n<defs>")?;
    for kind in KINDS {
        writeln!(
            out,
            "<marker id=\"{kind}\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"9\" \
             markerHeight=\"9\" markerUnits=\"userSpaceOnUse\" orient=\"auto\">\
             <path d=\"M0 0L8 4L0 8z\" fill=\"{}\"/></marker>",
            color(kind)
        )?;
    }
    writeln!(
        out,
        "</defs>\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>"
    )?;
    let name = escaped(&anomaly.name.to_string());
    writeln!(
        out,
        "<text class=\"title\" x=\"{MARGIN}\" y=\"{}\">{name}</text>",
        MARGIN + 8
    )?;
    Ok(())
}

const KINDS: [Dependency; 5] = [
    Dependency::Ww,
    Dependency::Wr,
    Dependency::Rw,
    Dependency::Process,
    Dependency::Realtime,
];

fn color(kind: Dependency) -> &'static str {
    match kind {
        Dependency::Ww => "#c2570c",
        Dependency::Wr => "#1a66c2",
        Dependency::Rw => "#8a2bb0",
        Dependency::Process => "#4d7a2a",
        Dependency::Realtime => "#0b7f86",
    }
}

/// Text that is safe between tags and in attributes. Control characters, which XML has no place for,
/// are left out.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' | '\t' => escaped.push(c),
            c if c.is_control() => {}
            c => escaped.push(c),
        }
    }
    escaped
}

/// The beginning of a text, where it is longer than `most` characters.
fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(most.saturating_sub(1)).collect();
    cut.push('\u{2026}');
    cut
}

/// A time in nanoseconds, in seconds.
fn seconds(nanoseconds: u64) -> String {
    let milliseconds = nanoseconds / 1_000_000;
    format!("{}.{:03} s", milliseconds / 1000, milliseconds % 1000)
}
