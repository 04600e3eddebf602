//! The same to Howdah and to one plain PostgreSQL, and their answers compared message by message.
//!
//! A conversation ([`generate`]) is drawn from a seed, on tables of its own. Howdah is asked first. What it refuses with 0A000 the plain
//! server is not given: it gets what came before it, and then something that fails too ([`exchange`]), so both have done the same and
//! the conversation goes on. Everything else must be answered alike ([`compare`]), but for what [`allowed`] lists.

pub mod allowed;
pub mod compare;
pub mod exchange;
pub mod generate;
pub mod wire;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use self::allowed::{Allowed, AllowedList, Differs};
use self::exchange::{Ask, Exchange, Order};
use self::generate::{Conversation, conversation};
use self::wire::{Message, Wire};
use crate::Result;

/// How many characters of an example are shown.
const LONGEST_EXAMPLE: usize = 400;

/// After so many differences the rest is not looked for: one mistake shows in many ways.
const ENOUGH: usize = 50;
/// Conversations that may be played again to make a difference small.
const REPLAYS: usize = 60;
/// The share of statements that Howdah may refuse, in per cent. More, and it would be refusals that are compared.
pub const MOST_REFUSED: f64 = 15.0;

/// How much, and of which draw.
#[derive(Clone, Copy, Debug)]
pub struct DifferentialPlan {
    /// Statements to be sent at least.
    pub statements: usize,
    /// The first conversation's; the next ones follow it.
    pub seed: u64,
}

/// The two servers.
#[derive(Clone, Copy, Debug)]
pub struct Servers {
    /// A node.
    pub howdah: SocketAddr,
    /// One PostgreSQL.
    pub plain: SocketAddr,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct DifferentialReport {
    /// Statements sent to Howdah.
    pub statements: usize,
    /// Conversations that they were in.
    pub conversations: usize,
    /// Statements that were answered with an error by both.
    pub errors: usize,
    /// What Howdah refused with 0A000, by its words, and how often.
    pub refused: BTreeMap<String, usize>,
    /// Of each of these words one of the exchanges that they answered.
    pub examples: BTreeMap<String, String>,
    /// Differences that are on the list, by their reasons.
    pub allowed: BTreeMap<String, usize>,
    /// Those that are not.
    pub differences: Vec<Difference>,
    /// The time it took.
    pub took: Duration,
}

/// A difference that is not on the list.
#[derive(Debug)]
pub struct Difference {
    /// Of its conversation: `must-show differential 1 SEED` plays that again.
    pub seed: u64,
    /// What differs.
    pub what: String,
    /// What was sent, from new tables on, the last being what is answered differently.
    pub history: Vec<Exchange>,
    /// How its tables are made.
    pub setup: Vec<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.what)?;
        for sql in &self.setup {
            writeln!(f, "  {sql}")?;
        }
        for exchange in &self.history {
            writeln!(f, "  {exchange}")?;
        }
        Ok(())
    }
}

impl DifferentialReport {
    /// How many statements were refused, in per cent.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts of a test")]
    pub fn refused_percent(&self) -> f64 {
        let refused: usize = self.refused.values().sum();
        100.0 * refused as f64 / self.statements.max(1) as f64
    }

    /// Everything for a person, most frequent first.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut text = format!(
            "{} statements in {} conversations, {:.1} s; {} failed alike; refused by Howdah: {} ({:.1} %)\n",
            self.statements,
            self.conversations,
            self.took.as_secs_f64(),
            self.errors,
            self.refused.values().sum::<usize>(),
            self.refused_percent(),
        );
        for (title, counts) in [("refused", &self.refused), ("allowed", &self.allowed)] {
            let mut sorted: Vec<_> = counts.iter().collect();
            sorted.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
            for (words, count) in sorted {
                text.push_str(&format!("{count:>7} {title}: {words}\n"));
                if let Some(example) = self.examples.get(words) {
                    let example: String = example.chars().take(LONGEST_EXAMPLE).collect();
                    text.push_str(&format!("{:>7} {}\n", "", example.replace('\n', " ")));
                }
            }
        }
        text.push_str(&format!(
            "{} differences that are not on the list\n",
            self.differences.len()
        ));
        for difference in &self.differences {
            text.push_str(&format!("\n{difference}"));
        }
        text
    }

    /// Whether all is as it must be.
    ///
    /// # Errors
    /// The whole report, where there are differences, or too much was refused.
    pub fn verdict(&self) -> Result<()> {
        if self.differences.is_empty() && self.refused_percent() <= MOST_REFUSED {
            return Ok(());
        }
        Err(self.describe().into())
    }
}

/// Plays conversations until so many statements were sent, or enough differences are found.
///
/// # Errors
/// Where a server does not let a client in, or a conversation's tables cannot be made.
pub async fn differential(servers: Servers, plan: DifferentialPlan) -> Result<DifferentialReport> {
    let (began, list) = (Instant::now(), AllowedList::read()?);
    let mut report = DifferentialReport::default();
    let mut seed = plan.seed;
    while report.statements < plan.statements && report.differences.len() < ENOUGH {
        let drawn = conversation(seed);
        let told = play(servers, &drawn.setup, &drawn.exchanges, &list, &mut report).await?;
        report.conversations += 1;
        if let Some((place, what)) = told {
            let history = smallest(servers, &drawn, place, &list).await?;
            report.differences.push(Difference {
                seed,
                what,
                history,
                setup: drawn.setup,
            });
        }
        seed = seed.wrapping_add(1);
    }
    report.took = began.elapsed();
    Ok(report)
}

/// Whether a statement has no meaning where there is one server only.
fn says_where_rows_are(sql: &str) -> bool {
    sql.starts_with("SELECT create_reference_table") || sql.starts_with("SELECT undistribute_table")
}

/// Plays these exchanges on new tables: at which one the answers differed, and how.
async fn play(
    servers: Servers,
    setup: &[String],
    exchanges: &[Exchange],
    list: &AllowedList,
    report: &mut DifferentialReport,
) -> Result<Option<(usize, String)>> {
    let mut howdah = Wire::connect(servers.howdah).await?;
    let mut plain = Wire::connect(servers.plain).await?;
    if let Some(what) = compare::greetings(&howdah.greeting, &plain.greeting) {
        return Ok(Some((0, what)));
    }
    for sql in setup {
        for (name, wire) in [("Howdah", &mut howdah), ("PostgreSQL", &mut plain)] {
            if name == "PostgreSQL" && says_where_rows_are(sql) {
                continue;
            }
            let answered = wire.exchange(&Exchange::query(sql, Order::Given).bytes()).await?;
            if answered.iter().any(|message| message.tag == b'E') {
                return Err(format!("{name} does not make the tables: {sql}: {answered:?}").into());
            }
        }
    }
    let mut prepared = Prepared::default();
    for (place, exchange) in exchanges.iter().enumerate() {
        report.statements += exchange.statements();
        let answered = match howdah.exchange(&exchange.bytes()).await {
            Ok(answered) => answered,
            Err(broken) => return Ok(Some((place, format!("Howdah: {broken}")))),
        };
        let shown = prepared.expand(exchange);
        let what = match refusal(&shown, &answered, list) {
            Some(refusal) => {
                let same = plain.exchange(&exchange.up_to_refusal(&answered)).await;
                let counts = match &refusal {
                    Refusal::Unsupported(words) => {
                        report.examples.entry(words.clone()).or_insert(shown);
                        &mut report.refused
                    }
                    Refusal::Listed(_) => &mut report.allowed,
                };
                let (Refusal::Unsupported(words) | Refusal::Listed(words)) = refusal;
                *counts.entry(words).or_default() += 1;
                same.map(|same| {
                    let (answered, same) = (without_errors(&answered), without_errors(&same));
                    compare::difference(&answered, &same, exchange.order(), &[])
                })
            }
            None => {
                let same = plain.exchange(&exchange.bytes()).await;
                report.errors += usize::from(answered.iter().any(|message| message.tag == b'E'));
                same.map(|same| {
                    let what = compare::difference(&answered, &same, exchange.order(), &[])?;
                    let may_be = |line: &&Allowed| match &line.differs {
                        Differs::Whole => true,
                        Differs::Failure => same.iter().any(|message| message.tag == b'E'),
                        Differs::Fields(but) => {
                            compare::difference(&answered, &same, exchange.order(), but).is_none()
                        }
                    };
                    let allowed = list.of(&shown, &answered).find(may_be);
                    let Some(line) = allowed else { return Some(what) };
                    *report.allowed.entry(line.reason.clone()).or_default() += 1;
                    None
                })
            }
        };
        match what {
            Ok(None) => {}
            Ok(Some(what)) => return Ok(Some((place, what))),
            Err(broken) => return Ok(Some((place, format!("PostgreSQL: {broken}")))),
        }
    }
    Ok(None)
}

/// The texts of the statements that a conversation has prepared by name.
#[derive(Default)]
struct Prepared(BTreeMap<String, String>);

impl Prepared {
    /// How the list of known differences sees an exchange: with the texts of the statements that it binds.
    fn expand(&mut self, exchange: &Exchange) -> String {
        let mut shown = exchange.to_string();
        let Exchange::Extended { asks, .. } = exchange else {
            return shown;
        };
        for ask in asks {
            match ask {
                Ask::Parse { name, sql, .. } if !name.is_empty() => {
                    self.0.insert(name.clone(), sql.clone());
                }
                Ask::Bind { statement, .. } => {
                    if let Some(sql) = self.0.get(statement) {
                        shown.push_str(&format!(" | of {statement:?}: {sql}"));
                    }
                }
                _ => {}
            }
        }
        shown
    }
}

/// Why Howdah did not do what it was asked.
enum Refusal {
    /// It cannot, and says so (0A000).
    Unsupported(String),
    /// Another error of its own, that is on the list.
    Listed(String),
}

/// An error of Howdah's own where PostgreSQL has none, so that PostgreSQL must be kept from doing it, too.
fn refusal(shown: &str, answered: &[Message], list: &AllowedList) -> Option<Refusal> {
    let error = answered.iter().find(|message| message.is_own_error())?;
    if error.sqlstate().as_deref() == Some("0A000") {
        return error.field(b'M').map(Refusal::Unsupported);
    }
    let line = list
        .of(shown, answered)
        .find(|line| line.differs == Differs::Whole)?;
    Some(Refusal::Listed(line.reason.clone()))
}

fn without_errors(messages: &[Message]) -> Vec<Message> {
    messages
        .iter()
        .filter(|message| message.tag != b'E')
        .cloned()
        .collect()
}

/// A difference's history, with what it does not need left out: halves first, then quarters, down to single exchanges.
async fn smallest(
    servers: Servers,
    drawn: &Conversation,
    place: usize,
    list: &AllowedList,
) -> Result<Vec<Exchange>> {
    let mut kept = drawn.exchanges[..=place].to_vec();
    let (mut replays, mut piece) = (0, kept.len() / 2);
    while piece > 0 {
        let mut from = 0;
        // The last one is what differs.
        while from + piece < kept.len() && replays < REPLAYS {
            let mut fewer = kept.clone();
            fewer.drain(from..from + piece);
            replays += 1;
            let mut unused = DifferentialReport::default();
            let told = play(servers, &drawn.setup, &fewer, list, &mut unused).await?;
            match told {
                Some((place, _)) if place + 1 == fewer.len() => kept = fewer,
                _ => from += piece,
            }
        }
        piece /= 2;
    }
    Ok(kept)
}
