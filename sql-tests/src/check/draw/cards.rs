//! Transactions as cards, and edges as arrows between them.

use std::fmt::Write;

use super::super::pairs::Outcome;
use super::super::{Anomaly, Edge, words};
use super::{Actor, color, cut, escaped, seconds};
use crate::Result;
use crate::history::Edn;

const WIDTH: usize = 250;
/// Between two columns: room for an arrow and its label.
const GAP: usize = 130;
const LINE: usize = 17;
/// More steps of a transaction are not shown.
const MOST_LINES: usize = 14;
const MOST_CHARACTERS: usize = 31;
/// Between the levels of arrows that go around the cards.
const LEVEL: usize = 30;

/// The cards, one in each column.
pub(super) struct Cards<'a> {
    cards: Vec<Card<'a>>,
    lane_height: usize,
    lanes: usize,
}

struct Card<'a> {
    actor: &'a Actor<'a>,
    lines: Vec<String>,
    lane: usize,
}

impl<'a> Cards<'a> {
    pub(super) fn of(actors: &'a [Actor<'a>]) -> Cards<'a> {
        let mut processes: Vec<u64> = actors.iter().map(|actor| actor.operation.process).collect();
        processes.sort_unstable();
        processes.dedup();
        let cards: Vec<Card<'_>> = actors
            .iter()
            .map(|actor| Card {
                actor,
                lines: lines(actor),
                lane: processes.binary_search(&actor.operation.process).unwrap_or(0),
            })
            .collect();
        let tallest = cards.iter().map(Card::height).max().unwrap_or(0);
        Cards {
            cards,
            lane_height: tallest + 28,
            lanes: processes.len(),
        }
    }

    /// Width and height.
    pub(super) fn size(&self, anomaly: &Anomaly) -> (usize, usize) {
        let columns = self.cards.len();
        let width = columns * WIDTH + columns.saturating_sub(1) * GAP;
        let (above, below) = self.around(anomaly);
        (
            width,
            (above + below) * LEVEL + self.lanes * self.lane_height + 20,
        )
    }

    /// How many arrows go around the cards: back above them, and forth below them.
    fn around(&self, anomaly: &Anomaly) -> (usize, usize) {
        let (mut above, mut below) = (0, 0);
        for edge in &anomaly.cycle {
            match self.columns(edge) {
                Some((from, to)) if to < from => above += 1,
                Some((from, to)) if to > from + 1 => below += 1,
                _ => {}
            }
        }
        (above, below)
    }

    /// The columns where an edge begins and ends.
    fn columns(&self, edge: &Edge) -> Option<(usize, usize)> {
        let column = |index| {
            self.cards
                .iter()
                .position(|card| card.actor.operation.index() == index)
        };
        column(edge.from).zip(column(edge.to))
    }

    pub(super) fn draw(&self, out: &mut String, anomaly: &Anomaly) -> Result<()> {
        let (above, _) = self.around(anomaly);
        writeln!(out, "<g transform=\"translate(0 {})\">", above * LEVEL)?;
        for (column, card) in self.cards.iter().enumerate() {
            card.draw(out, column * (WIDTH + GAP), card.lane * self.lane_height)?;
        }
        let arrows = self.arrows(anomaly);
        for (edge, arrow) in &arrows {
            arrow.draw(out, edge)?;
        }
        // Above all lines, so that none of them crosses a label out.
        for (edge, arrow) in &arrows {
            arrow.label(out, edge)?;
        }
        writeln!(out, "</g>")?;
        Ok(())
    }

    fn arrows<'e>(&self, anomaly: &'e Anomaly) -> Vec<(&'e Edge, Arrow)> {
        let (mut back, mut forth) = (0, 0);
        let mut arrows = Vec::new();
        for edge in &anomaly.cycle {
            let Some((from, to)) = self.columns(edge) else {
                continue;
            };
            let arrow = if to < from {
                back += 1;
                self.over(from, to, back)
            } else if to == from + 1 {
                self.across(from, to)
            } else {
                forth += 1;
                self.under(from, to, forth)
            };
            arrows.push((edge, arrow));
        }
        arrows
    }

    /// An arrow to the next column.
    fn across(&self, from: usize, to: usize) -> Arrow {
        let x1 = from * (WIDTH + GAP) + WIDTH;
        let x2 = to * (WIDTH + GAP);
        let y = |column: usize| self.head(column) + self.cards[column].height() / 2;
        let (y1, y2) = (y(from), y(to));
        let bend = GAP / 2;
        Arrow {
            path: format!("M{x1} {y1}C{} {y1} {} {y2} {x2} {y2}", x1 + bend, x2 - bend),
            label: (
                usize::midpoint(x1, x2),
                format!("{}", usize::midpoint(y1, y2) - 7),
            ),
        }
    }

    /// An arrow back to an earlier column, above all lanes.
    fn over(&self, from: usize, to: usize, level: usize) -> Arrow {
        let aside = 8 * (level % 12);
        let x1 = from * (WIDTH + GAP) + WIDTH / 2 - aside;
        let x2 = to * (WIDTH + GAP) + WIDTH / 2 + aside;
        let high = level * LEVEL;
        let path = format!(
            "M{x1} {}V-{}Q{x1} -{high} {} -{high}H{}Q{x2} -{high} {x2} -{}V{}",
            self.head(from),
            high - 8,
            x1 - 8,
            x2 + 8,
            high - 8,
            self.head(to)
        );
        let label = (usize::midpoint(x1, x2), format!("-{}", high + 5));
        Arrow { path, label }
    }

    /// An arrow over several columns, below all lanes.
    fn under(&self, from: usize, to: usize, level: usize) -> Arrow {
        let aside = 8 * (level % 12);
        let x1 = from * (WIDTH + GAP) + WIDTH / 2 + aside;
        let x2 = to * (WIDTH + GAP) + WIDTH / 2 - aside;
        let foot = |column: usize| self.head(column) + self.cards[column].height();
        let low = self.lanes * self.lane_height + level * LEVEL - 20;
        let path = format!(
            "M{x1} {}V{}Q{x1} {low} {} {low}H{}Q{x2} {low} {x2} {}V{}",
            foot(from),
            low - 8,
            x1 + 8,
            x2 - 8,
            low - 8,
            foot(to)
        );
        let label = (usize::midpoint(x1, x2), format!("{}", low - 5));
        Arrow { path, label }
    }

    /// Where the card of a column begins.
    fn head(&self, column: usize) -> usize {
        self.cards[column].lane * self.lane_height
    }
}

/// An edge in the picture: the path of its line, and the middle of its label's foot.
struct Arrow {
    path: String,
    label: (usize, String),
}

impl Arrow {
    fn draw(&self, out: &mut String, edge: &Edge) -> Result<()> {
        let (kind, color) = (edge.kind, color(edge.kind));
        writeln!(
            out,
            "<path class=\"edge\" stroke=\"{color}\" marker-end=\"url(#{kind})\" d=\"{}\">\
             <title>{}</title></path>",
            self.path,
            escaped(&edge.words)
        )?;
        Ok(())
    }

    fn label(&self, out: &mut String, edge: &Edge) -> Result<()> {
        let about = edge
            .key
            .as_ref()
            .map_or_else(String::new, |key| format!(" key {key}"));
        let (x, y) = &self.label;
        writeln!(
            out,
            "<text class=\"label\" x=\"{x}\" y=\"{y}\" text-anchor=\"middle\" style=\"fill:{}\">{}</text>",
            color(edge.kind),
            escaped(&cut(&format!("{}{about}", edge.kind), 18)),
        )?;
        Ok(())
    }
}

impl Card<'_> {
    fn height(&self) -> usize {
        (self.lines.len() + 2) * LINE + 10
    }

    fn draw(&self, out: &mut String, x: usize, y: usize) -> Result<()> {
        let operation = &self.actor.operation;
        let doubtful = if operation.outcome == Outcome::Ok {
            ""
        } else {
            " doubtful"
        };
        writeln!(out, "<g transform=\"translate({x} {y})\">")?;
        let height = self.height();
        writeln!(
            out,
            "<rect class=\"card{doubtful}\" width=\"{WIDTH}\" height=\"{height}\" rx=\"6\"/>"
        )?;
        writeln!(
            out,
            "<text x=\"10\" y=\"19\"><tspan class=\"name\">{}</tspan> process {}, index {}</text>",
            escaped(&self.actor.name),
            operation.process,
            operation.index()
        )?;
        for (place, line) in self.lines.iter().enumerate() {
            let y = 19 + (place + 1) * LINE;
            writeln!(
                out,
                "<text class=\"mono\" x=\"10\" y=\"{y}\">{}</text>",
                escaped(line)
            )?;
        }
        let (began, ended) = self.actor.times();
        let until = match (operation.outcome, ended) {
            (Outcome::Ok, Some(ended)) => format!("ok {}", seconds(ended)),
            (Outcome::Fail, Some(ended)) => format!("failed {}", seconds(ended)),
            (Outcome::Info, Some(ended)) => format!("unknown since {}", seconds(ended)),
            (_, None) => "never answered".to_owned(),
        };
        let y = 19 + (self.lines.len() + 1) * LINE;
        let times = format!("{}, {until}", seconds(began));
        writeln!(
            out,
            "<text class=\"faint\" x=\"10\" y=\"{y}\">{times}</text>\n</g>"
        )?;
        Ok(())
    }
}

/// What an operation did, a step on each line.
fn lines(actor: &Actor<'_>) -> Vec<String> {
    let value = actor.operation.value();
    let is_step = |step: &Edn| {
        step.vector()
            .and_then(<[Edn]>::first)
            .and_then(Edn::word)
            .is_some()
    };
    let mut lines: Vec<String> = match value.vector() {
        Some(steps) if steps.iter().all(is_step) => steps.iter().map(step).collect(),
        _ => vec![format!("{} {}", actor.operation.f(), words::value(value))],
    };
    if lines.len() > MOST_LINES {
        let hidden = lines.len() - MOST_LINES + 1;
        lines.truncate(MOST_LINES - 1);
        lines.push(format!("({hidden} more)"));
    }
    lines.iter().map(|line| cut(line, MOST_CHARACTERS)).collect()
}

/// A micro-operation; of a long list the end is what matters, so its beginning is left out.
fn step(step: &Edn) -> String {
    let Some([f, key, value]) = step.vector() else {
        return words::value(step);
    };
    let begin = format!("{} {key} ", f.word().unwrap_or_default());
    let whole = format!("{begin}{value}");
    let Some(elements) = value.vector().filter(|_| whole.chars().count() > MOST_CHARACTERS) else {
        return whole;
    };
    let room = MOST_CHARACTERS.saturating_sub(begin.chars().count() + 3);
    let mut end = String::new();
    for element in elements.iter().rev() {
        let longer = format!(" {element}{end}");
        if longer.chars().count() > room {
            break;
        }
        end = longer;
    }
    format!("{begin}[\u{2026}{end}]")
}
