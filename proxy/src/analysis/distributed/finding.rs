//! What groups compute of their own rows, found in the text of a SELECT.

use std::collections::HashSet;
use std::ops::{ControlFlow, Range};

use coordinator::catalogue::Relation;
use sqlparser::ast::{
    DuplicateTreatment, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident,
    ObjectNamePart, Query, Select, SelectItem, Value, Visitor,
};

use super::super::functions::{self, FunctionKind};
use super::super::lexer::{Kind, Token};
use super::super::parse::token_of;
use super::super::proof::Proof;
use super::super::relations::parts;
use super::super::scope::Instance;
use super::super::words::split_commas;
use super::clauses::{Clauses, word_of, write};
use super::combine::{Combined, Deviation};
use super::filter::{Block, Piece};
use super::top::{direction, expression};
use super::{Part, RelationName, grouping, name_of, quoted};

/// The first OID that is not PostgreSQL's own (FirstNormalObjectId).
const FIRST_OF_USERS: u32 = 16_384;

/// GROUPING() takes 31 arguments (`transformGroupingFunc` in parse_agg.c).
const MOST_SETS: usize = 31;

/// Words by which a text gets another collation than the database's own; those that give a value of type `name` do, which has "C".
const OF_COLLATION: [&str; 8] = [
    "collate",
    "current_catalog",
    "current_database",
    "current_role",
    "current_schema",
    "current_user",
    "session_user",
    "user",
];

/// A call of an aggregate.
pub(super) struct Call {
    function: Function,
    /// Of each of its arguments once.
    distinct: bool,
}

/// All calls of aggregates of a query, not of those in it, if they can be computed so.
#[derive(Default)]
pub(super) struct Calls {
    pub(super) found: Vec<Call>,
    depth: usize,
}

impl Visitor for Calls {
    type Break = ();
    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }
    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }
    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        let Expr::Function(function) = expr else {
            return ControlFlow::Continue(());
        };
        if self.depth > 1 {
            return ControlFlow::Continue(());
        }
        let names = parts(&function.name).unwrap_or_default();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let Ok(found) = functions::find(&names) else {
            return ControlFlow::Break(());
        };
        let list = match &function.args {
            FunctionArguments::List(list) => Some(list),
            FunctionArguments::None | FunctionArguments::Subquery(_) => None,
        };
        let distinct =
            list.is_some_and(|list| matches!(list.duplicate_treatment, Some(DuplicateTreatment::Distinct)));
        // ORDER BY in it matters where each comes once, too: that is written again.
        let plain = list.is_some_and(|list| distinct || list.clauses.is_empty());
        match found.kind {
            _ if function.over.is_some() => ControlFlow::Break(()),
            FunctionKind::Normal => ControlFlow::Continue(()),
            // It stays as it is.
            FunctionKind::Aggregate if names == ["grouping"] => ControlFlow::Continue(()),
            FunctionKind::Aggregate
                if plain && function.within_group.is_empty() && function.null_treatment.is_none() =>
            {
                self.found.push(Call {
                    function: function.clone(),
                    distinct,
                });
                ControlFlow::Continue(())
            }
            FunctionKind::Aggregate | FunctionKind::Window => ControlFlow::Break(()),
        }
    }
}

impl Call {
    /// Whether it passes over NULL, and has its DISTINCT values from one argument: the other one of `string_agg` is a constant.
    fn passes_over_null(&self) -> bool {
        const PASSING: [&str; 18] = [
            "avg",
            "bit_and",
            "bit_or",
            "bit_xor",
            "bool_and",
            "bool_or",
            "count",
            "every",
            "max",
            "min",
            "stddev",
            "stddev_pop",
            "stddev_samp",
            "string_agg",
            "sum",
            "var_pop",
            "var_samp",
            "variance",
        ];
        let constant = |argument: &FunctionArg| {
            matches!(
                argument,
                FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(_)))
            )
        };
        let FunctionArguments::List(list) = &self.function.args else {
            return false;
        };
        let name = parts(&self.function.name).and_then(|mut names| names.pop());
        name.is_some_and(|name| PASSING.contains(&name.as_str())) && list.args.iter().skip(1).all(constant)
    }
}

/// What groups group by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// The table's column of this name.
    Column(String),
    /// The value of this number.
    Value(usize),
}

/// Where a call is, in tokens: from its name to its end, its arguments, and its FILTER.
struct Place {
    all: Range<usize>,
    arguments: Range<usize>,
    filter: Range<usize>,
}

/// What has been found.
pub(super) struct Finding<'t> {
    tokens: &'t [Token],
    clauses: &'t Clauses<'t>,
    select: &'t Select,
    /// All of its tables, and what their columns are qualified with.
    tables: Vec<&'t Relation>,
    called: Vec<&'t str>,
    /// The table, where it is one alone.
    single: Option<&'t Instance<'t>>,
    /// What groups do and is replaced as a whole, in bytes: WHERE and its condition, and FROM where there are several tables.
    pub(super) done: Option<Range<usize>>,
    /// What groups give beside columns: what they group by, of which there are so many, then aggregates.
    pub(super) extras: Vec<Vec<Piece>>,
    pub(super) keys: usize,
    /// What of it is grouped by apart from each other, and not at all for the aggregates; empty where all is grouped by together.
    pub(super) sets: Vec<Vec<By>>,
    /// What stands for bytes of the text.
    pub(super) combined: Vec<(Range<usize>, Combined)>,
    /// Tokens that are inside of what is replaced.
    taken: HashSet<usize>,
}

impl<'t> Finding<'t> {
    pub(super) fn of(
        tokens: &'t [Token],
        clauses: &'t Clauses<'t>,
        proof: &'t Proof<'t>,
        select: &'t Select,
    ) -> Finding<'t> {
        let single = match proof.instances.as_slice() {
            [only] if proof.reference_tables.is_empty() => Some(only),
            _ => None,
        };
        let from = clauses.from.filter(|_| single.is_none()).unwrap_or_default();
        let filter = clauses.whole_filter.unwrap_or_default();
        let first = from.first().or(filter.first());
        let last = filter.last().or(from.last());
        let distributed = proof.instances.iter().map(|instance| instance.table);
        Finding {
            tokens,
            clauses,
            select,
            tables: distributed
                .chain(proof.reference_tables.iter().copied())
                .collect(),
            called: names_in(clauses.from.unwrap_or_default()),
            single,
            done: first
                .zip(last)
                .map(|(first, last)| first.range.start..last.range.end),
            extras: Vec::new(),
            keys: 0,
            sets: Vec::new(),
            combined: Vec::new(),
            taken: HashSet::new(),
        }
    }

    /// The table, where it is one alone.
    pub(super) fn single(&self) -> Option<&'t Instance<'t>> {
        self.single
    }

    /// All of its tables, without columns.
    pub(super) fn parts(&self) -> Vec<Part> {
        let tables = self.tables.iter();
        tables
            .map(|table| Part::of(RelationName::of(table), Vec::new()))
            .collect()
    }

    /// GROUP BY and aggregates: gives the table's columns that groups give.
    pub(super) fn grouped(&mut self, by: &[Expr], calls: &[Call], proof: &Proof<'_>) -> Option<Vec<String>> {
        // What is inside of aggregates is the groups' own.
        for call in calls {
            let place = self.place(call)?;
            self.taken.extend(place.all);
        }
        let mut given = self.group(by, proof)?;
        // What is grouped by comes before what is computed of it.
        let (distinct, plain): (Vec<&Call>, Vec<&Call>) = calls.iter().partition(|call| call.distinct);
        let determined = self.has_primary_key(&given);
        let (mut looked_at, keys) = (Vec::new(), self.keys);
        for call in &distinct {
            looked_at.push(self.each_once(call, &given, keys)?);
        }
        if !determined && distinct.iter().all(|call| call.passes_over_null()) {
            self.sets = apart(&looked_at);
        }
        for by in looked_at.into_iter().flatten() {
            match by {
                By::Column(name) if !given.contains(&name) => given.push(name),
                By::Column(_) | By::Value(_) => {}
            }
        }
        for call in plain {
            self.aggregate(call)?;
        }
        self.checked(&given)?;
        // In the table's order.
        let columns = self.single.iter().flat_map(|instance| &instance.table.columns);
        Some(
            columns
                .filter(|column| given.contains(&column.name))
                .map(|column| column.name.clone())
                .collect(),
        )
    }

    fn has_column(&self, name: &str) -> bool {
        self.tables.iter().any(|table| table.column(name).is_some())
    }

    fn is_column(&self, token: &Token) -> bool {
        name_of(token).is_some_and(|name| self.has_column(name))
    }

    /// The columns that are named outside of WHERE, in the table's order.
    pub(super) fn named(&self) -> Vec<String> {
        let outside = |token: &&Token| !self.is_done(token);
        let names: HashSet<&str> = self.tokens.iter().filter(outside).filter_map(name_of).collect();
        let columns = self.single.iter().flat_map(|instance| &instance.table.columns);
        columns
            .filter(|column| names.contains(column.name.as_str()))
            .map(|column| column.name.clone())
            .collect()
    }

    fn is_done(&self, token: &Token) -> bool {
        self.done
            .as_ref()
            .is_some_and(|done| done.contains(&token.range.start))
    }

    fn place(&self, call: &Call) -> Option<Place> {
        let ident = |part: &ObjectNamePart| token_of(part.as_ident()?);
        let start = ident(call.function.name.0.first()?)?;
        let open = ident(call.function.name.0.last()?)? + 1;
        let close = self.closing(open)?;
        let mut place = Place {
            all: start..close + 1,
            arguments: open + 1..close,
            filter: close + 1..close + 1,
        };
        if call.function.filter.is_some() {
            if word_of(self.tokens.get(close + 1)?) != Some("filter") {
                return None;
            }
            place.all.end = self.closing(close + 2)? + 1;
            place.filter.end = place.all.end;
        }
        Some(place)
    }

    /// The parenthesis that closes the one at `open`.
    fn closing(&self, open: usize) -> Option<usize> {
        let mut depth = 0usize;
        for (at, token) in self.tokens.iter().enumerate().skip(open) {
            match token.kind {
                Kind::Punctuation('(') => depth += 1,
                Kind::Punctuation(')') => {
                    depth = depth.checked_sub(1)?;
                    if depth == 0 {
                        return Some(at);
                    }
                }
                _ if depth == 0 => return None,
                _ => {}
            }
        }
        None
    }

    /// The number of the token that these begin with.
    fn number_of(&self, tokens: &[Token]) -> Option<usize> {
        let start = tokens.first()?.range.start;
        self.tokens
            .binary_search_by_key(&start, |token| token.range.start)
            .ok()
    }

    fn bytes(&self, tokens: Range<usize>) -> Option<Range<usize>> {
        let last = self.tokens.get(tokens.end.checked_sub(1)?)?;
        Some(self.tokens.get(tokens.start)?.range.start..last.range.end)
    }

    /// A value that groups compute. Gives its number.
    fn extra(&mut self, pieces: Vec<Piece>) -> usize {
        if let Some(known) = self.extras[self.keys..].iter().position(|known| *known == pieces) {
            return self.keys + known;
        }
        self.extras.push(pieces);
        self.extras.len() - 1
    }

    /// A value that groups group by. Gives its number.
    fn key_value(&mut self, tokens: &[Token]) -> usize {
        let mut pieces = vec![Piece::text("(")];
        write(tokens, &mut pieces);
        pieces.push(Piece::text(")"));
        match self.extras.iter().position(|known| *known == pieces) {
            Some(known) => known,
            None => {
                self.extras.push(pieces);
                self.keys = self.extras.len();
                self.keys - 1
            }
        }
    }

    fn aggregate(&mut self, call: &Call) -> Option<()> {
        let place = self.place(call)?;
        let name = parts(&call.function.name)?.pop()?;
        let tokens = self.tokens;
        let of = |before: &str, behind: &str| {
            let mut pieces = vec![Piece::text(before)];
            write(&tokens[place.arguments.clone()], &mut pieces);
            pieces.push(Piece::text(behind));
            pieces
        };
        let called = |name: &str, argument: Vec<Piece>| {
            let mut pieces = vec![Piece::text(format!("pg_catalog.{}(", quoted(name)))];
            pieces.extend(argument);
            pieces.push(Piece::text(") "));
            write(&tokens[place.filter.clone()], &mut pieces);
            pieces
        };
        let as_it_is = |name: &str| called(name, of("", ""));
        let combined = match name.as_str() {
            "count" => Combined::Count(self.extra(as_it_is("count"))),
            "sum" => Combined::Sum(self.extra(as_it_is("sum"))),
            "avg" => Combined::Average {
                sum: self.extra(as_it_is("sum")),
                count: self.extra(as_it_is("count")),
            },
            "min" | "max" | "bool_and" | "bool_or" | "every" | "bit_and" | "bit_or" | "bit_xor"
            | "any_value" => Combined::Same {
                value: self.extra(as_it_is(&name)),
                function: name,
            },
            _ => {
                let deviation = Deviation::called(&name)?;
                let exact = || of("CAST((", ") AS pg_catalog.numeric)");
                let mut square = exact();
                square.push(Piece::text(" OPERATOR(pg_catalog.*) "));
                square.extend(exact());
                Combined::Variance {
                    count: self.extra(as_it_is("count")),
                    sum: self.extra(as_it_is("sum")),
                    exact: self.extra(called("sum", exact())),
                    squares: self.extra(called("sum", square)),
                    of: deviation,
                }
            }
        };
        self.combined.push((self.bytes(place.all)?, combined));
        Some(())
    }

    /// An aggregate of values that come once: it stays, over those that groups group by. Gives what is grouped by for it, beside what is for all.
    fn each_once(&mut self, call: &Call, given: &[String], keys: usize) -> Option<Vec<By>> {
        let (mut found, mut constant) = (Vec::new(), true);
        let place = self.place(call)?;
        let tokens = self.tokens;
        let (distinct, arguments) = tokens[place.arguments.clone()].split_first()?;
        if word_of(distinct) != Some("distinct") {
            return None;
        }
        let (values, ordered) = in_order(arguments);
        let mut looked_at: Vec<&[Token]> = split_commas(values);
        for item in ordered.map(split_commas).unwrap_or_default() {
            looked_at.push(direction(item)?.0);
        }
        if let Some(filter) = tokens[place.filter.clone()].get(3..) {
            // FILTER ( WHERE condition )
            looked_at.push(filter.split_last()?.1);
        }
        for value in looked_at {
            let row = |token: &Token| name_of(token).is_some_and(|name| self.called.contains(&name));
            match value {
                // A constant.
                _ if !value.iter().any(|token| self.is_column(token) || row(token)) => continue,
                [only]
                | [
                    ..,
                    Token {
                        kind: Kind::Punctuation('.'),
                        ..
                    },
                    only,
                ] if self.single.is_some()
                    && self.is_column(only)
                    && value
                        .iter()
                        .all(|token| name_of(token).is_some() || token.kind == Kind::Punctuation('.')) =>
                {
                    constant = false;
                    let name = name_of(only)?.to_owned();
                    let column = self.single?.table.column(&name)?;
                    if grouping::UNGROUPED.contains(&column.type_oid) {
                        return None;
                    }
                    let by = By::Column(name.clone());
                    if !given.contains(&name) && !found.contains(&by) {
                        found.push(by);
                    }
                }
                _ => {
                    constant = false;
                    let at = self.number_of(value)?;
                    let number = self.key_value(value);
                    let by = By::Value(number);
                    if number >= keys && !found.contains(&by) {
                        found.push(by);
                    }
                    self.combined
                        .push((self.bytes(at..at + value.len())?, Combined::Key(number)));
                }
            }
        }
        // Without rows there is no such value, but each group gives one row where nothing is grouped by.
        let grouped = !given.is_empty() || keys > 0;
        (grouped || !constant).then_some(found)
    }

    /// What groups are made by: gives the table's columns among it.
    fn group(&mut self, by: &[Expr], proof: &Proof<'_>) -> Option<Vec<String>> {
        let select = self.select;
        let block = Block::of(select, proof);
        let (items, keys) = (
            self.clauses.items(),
            self.clauses.group.map(split_commas).unwrap_or_default(),
        );
        if items.len() != select.projection.len() || keys.len() != by.len() {
            return None;
        }
        let (mut given, mut sets): (Vec<String>, bool) = (Vec::new(), false);
        let mut give = |name: &String| {
            if !given.contains(name) {
                given.push(name.clone());
            }
        };
        for (parsed, key) in by.iter().zip(keys) {
            let (parsed, key) = match parsed {
                Expr::GroupingSets(all) | Expr::Cube(all) | Expr::Rollup(all) => {
                    sets = true;
                    self.single?;
                    for column in all.iter().flatten() {
                        give(&block.column(column)?.1.name);
                    }
                    continue;
                }
                Expr::Value(value) => match &value.value {
                    Value::Number(number, _) => result(
                        number.parse::<usize>().ok()?.checked_sub(1)?,
                        self.tokens,
                        &items,
                        select,
                    )?,
                    _ => return None,
                },
                // A column comes before a result of that name (`findTargetlistEntrySQL92` in parse_clause.c).
                Expr::Identifier(name) if !self.has_column(&name.value) => {
                    let called = |item: &SelectItem| matches!(item, SelectItem::ExprWithAlias { alias, .. } if alias.value == name.value);
                    let mut found = (0..items.len()).filter(|at| called(&select.projection[*at]));
                    let at = found.next().filter(|_| found.next().is_none())?;
                    result(at, self.tokens, &items, select)?
                }
                _ => (parsed, key),
            };
            match block.column(parsed) {
                Some((_, column)) if self.single.is_some() => give(&column.name),
                _ => self.key(key)?,
            }
        }
        let Some(instance) = self.single else {
            return Some(given);
        };
        let table = instance.table;
        if self.has_primary_key(&given) && !sets {
            // Then all columns may stand alone.
            for column in &table.columns {
                let named =
                    |at: usize| !self.taken.contains(&at) && name_of(&self.tokens[at]) == Some(&column.name);
                if !given.contains(&column.name) && (0..self.tokens.len()).any(named) {
                    if column.type_oid >= FIRST_OF_USERS || grouping::UNGROUPED.contains(&column.type_oid) {
                        return None;
                    }
                    given.push(column.name.clone());
                }
            }
        }
        Some(given)
    }

    /// Whether the table's primary key is among these columns.
    fn has_primary_key(&self, given: &[String]) -> bool {
        let key = self.single.and_then(|instance| grouping::key_of(instance.table));
        key.is_some_and(|key| key.iter().all(|column| given.contains(&column.name)))
    }

    /// An expression of GROUP BY, of these tokens: it is replaced wherever it stands.
    fn key(&mut self, key: &[Token]) -> Option<()> {
        if !key.iter().any(|token| self.is_column(token)) {
            return None;
        }
        let same = |tokens: &[Token]| {
            tokens.len() == key.len() && tokens.iter().zip(key).all(|(one, other)| one.kind == other.kind)
        };
        let mut whole: Vec<&[Token]> = Vec::new();
        for (item, parsed) in self.clauses.items().into_iter().zip(&self.select.projection) {
            whole.push(expression(item, self.tokens, parsed)?);
        }
        whole.extend(self.clauses.group.map(split_commas).unwrap_or_default());
        for item in self.clauses.order.map(split_commas).unwrap_or_default() {
            let by = direction(item)?.0;
            // A name alone is that of a result, if there is one.
            let result =
                matches!(by, [only] if self.results().any(|alias| name_of(only) == Some(&alias.value)));
            if !result {
                whole.push(by);
            }
        }
        let mut places: Vec<Range<usize>> = whole
            .into_iter()
            .filter(|tokens| same(tokens))
            .filter_map(|tokens| self.number_of(tokens))
            .map(|at| at..at + key.len())
            .collect();
        if self.is_closed(key) {
            for at in 0..self.tokens.len().saturating_sub(key.len() - 1) {
                let found = at..at + key.len();
                if same(&self.tokens[found.clone()])
                    && !self.is_done(&self.tokens[at])
                    && !self.taken.contains(&at)
                    && !places.contains(&found)
                    && self.is_apart(&found)
                {
                    places.push(found);
                }
            }
        }
        let value = self.key_value(key);
        for place in places {
            if self.taken.contains(&place.start) {
                continue;
            }
            self.combined
                .push((self.bytes(place.clone())?, Combined::Key(value)));
            self.taken.extend(place);
        }
        Some(())
    }

    /// Whether an expression is one wherever it stands: in parentheses, a call, or a qualified column.
    fn is_closed(&self, key: &[Token]) -> bool {
        if let [_, point, _] = key
            && point.kind == Kind::Punctuation('.')
        {
            return true;
        }
        let Some(start) = self.number_of(key) else {
            return false;
        };
        let open = (0..key.len()).find(|at| key[*at].kind == Kind::Punctuation('('));
        let called = |open: usize| match open {
            0 => true,
            1 => matches!(key[0].kind, Kind::Word(_) | Kind::Quoted(_)),
            _ => false,
        };
        open.is_some_and(|open| called(open) && self.closing(start + open) == Some(start + key.len() - 1))
    }

    /// Whether such tokens are that expression there, and not the end of a longer name or the arguments of a call.
    fn is_apart(&self, found: &Range<usize>) -> bool {
        const BEFORE: [&str; 10] = [
            "and", "by", "case", "else", "having", "not", "or", "select", "then", "when",
        ];
        let point = Kind::Punctuation('.');
        let behind = self.tokens.get(found.end).map(|token| &token.kind);
        let before = found.start.checked_sub(1).map(|before| &self.tokens[before]);
        let in_parentheses = self.tokens[found.start].kind == Kind::Punctuation('(');
        let apart = before.is_none_or(|token| match &token.kind {
            Kind::Word(word) => !in_parentheses || BEFORE.contains(&word.as_str()),
            Kind::Quoted(_) => !in_parentheses,
            Kind::Punctuation(mark) => *mark != '.' && (!in_parentheses || *mark != ']'),
            _ => true,
        });
        apart && behind != Some(&point)
    }

    /// The names that the text gives to results.
    fn results(&self) -> impl Iterator<Item = &'t Ident> {
        self.select.projection.iter().filter_map(|item| match item {
            SelectItem::ExprWithAlias { alias, .. } => Some(alias),
            _ => None,
        })
    }

    /// Whether what is left of the text names nothing that groups do not give.
    pub(super) fn checked(&self, given: &[String]) -> Option<()> {
        let aliases: Vec<&Ident> = self.results().collect();
        // ORDER BY of a name alone is by the result of that name, if there is one.
        let ordered = self.clauses.order.map(split_commas).unwrap_or_default();
        let ordered = ordered.into_iter().filter_map(|item| {
            let by = direction(item)?.0;
            let [only] = by else { return None };
            let name = name_of(only)?;
            let result = aliases.iter().any(|alias| alias.value == name);
            result.then(|| self.number_of(by))?
        });
        let table = self.single.iter().flat_map(|instance| {
            let name = instance.at.into_iter().flat_map(|(from, to)| from..=to);
            name.chain(instance.alias_at)
        });
        let names: Vec<usize> = table
            .chain(aliases.iter().filter_map(|alias| token_of(alias)))
            .chain(ordered)
            .collect();
        for (at, token) in self.tokens.iter().enumerate() {
            let left = !self.is_done(token) && !self.taken.contains(&at) && !names.contains(&at);
            let Some(name) = name_of(token).filter(|_| left) else {
                continue;
            };
            let point = self
                .tokens
                .get(at + 1)
                .is_some_and(|next| next.kind == Kind::Punctuation('.'));
            // With several tables nothing of theirs is left; with one it is called as before.
            let row = self.called.contains(&name) && (!point || self.single.is_none());
            let other = self.has_column(name) && !given.iter().any(|known| known == name);
            if row || (other && !point) {
                return None;
            }
        }
        Some(())
    }
}

/// The sets of what DISTINCT aggregates look at, if there are several.
fn apart(looked_at: &[Vec<By>]) -> Vec<Vec<By>> {
    let mut sets: Vec<Vec<By>> = Vec::new();
    for set in looked_at {
        if !set.is_empty() && !sets.contains(set) {
            sets.push(set.clone());
        }
    }
    match sets.len() {
        2..=MOST_SETS => sets,
        _ => Vec::new(),
    }
}

/// Whether a text in a statement may have another collation than the database's own.
pub(super) fn is_collated(tokens: &[Token]) -> bool {
    let kind = |at: Option<usize>| at.and_then(|at| tokens.get(at)).map(|token| &token.kind);
    (0..tokens.len()).any(|at| match &tokens[at].kind {
        Kind::Word(word) if word == "name" => {
            let cast = match kind(at.checked_sub(1)) {
                Some(Kind::Operator(operator)) => operator == "::",
                Some(Kind::Word(word)) => word == "as",
                _ => false,
            };
            cast || matches!(kind(Some(at + 1)), Some(Kind::Text(_) | Kind::Punctuation('(')))
        }
        Kind::Word(word) => OF_COLLATION.contains(&word.as_str()),
        _ => false,
    })
}

/// All names in FROM, those of its tables among them.
fn names_in(from: &[Token]) -> Vec<&str> {
    const WORDS: [&str; 13] = [
        "from", "as", "on", "using", "join", "inner", "left", "right", "full", "outer", "cross", "natural",
        "and",
    ];
    from.iter()
        .filter_map(name_of)
        .filter(|name| !WORDS.contains(name))
        .collect()
}

/// The arguments of a call, and its ORDER BY.
fn in_order(arguments: &[Token]) -> (&[Token], Option<&[Token]>) {
    let mut depth = 0usize;
    for (at, token) in arguments.iter().enumerate() {
        match token.kind {
            Kind::Punctuation('(' | '[') => depth += 1,
            Kind::Punctuation(')' | ']') => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 && word_of(token) == Some("order") {
            return (&arguments[..at], arguments.get(at + 2..));
        }
    }
    (arguments, None)
}

/// A result, by its place in their list.
fn result<'s, 't>(
    at: usize,
    tokens: &'t [Token],
    items: &[&'t [Token]],
    select: &'s Select,
) -> Option<(&'s Expr, &'t [Token])> {
    let parsed = select.projection.get(at)?;
    let (SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = parsed else {
        return None;
    };
    Some((expr, expression(items.get(at)?, tokens, parsed)?))
}
