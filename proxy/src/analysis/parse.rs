//! From our tokens to the syntax tree of `sqlparser`.
//!
//! The parser gets our tokens instead of the text, so that comments, quotes and folding are read by PostgreSQL's
//! rules. Names in the tree are folded: equal strings are equal names. What the tree calls a line is the number of a token, so that a
//! name in the tree is found again in the text ([`token_of`]).

use std::ops::ControlFlow;

use sqlparser::ast::{Ident, Select, Statement, TableFactor, TableWithJoins, VisitMut, VisitorMut};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Location, Span, Token as Theirs, TokenWithSpan, Tokenizer};

use super::Refusal;
use super::grammar::{Grammar, Rewritten};
use super::lexer::{Kind, Token};

/// How deep a tree may be, in words and operators, so that walking and dropping it stays within a thread's stack.
const MAX_DEPTH: usize = 3000;

/// How deep parentheses and subqueries may nest.
const MAX_NESTING: usize = 48;

/// Why there is no tree.
pub(super) enum Unparsed {
    /// The parser does not know the syntax; PostgreSQL may.
    Unknown,
    /// It is beyond a bound.
    Refused(Refusal),
}

/// Parses one statement.
pub(super) fn parse(tokens: &[Token]) -> Result<Statement, Unparsed> {
    bound_depth(tokens).map_err(Unparsed::Refused)?;
    let dialect = PostgreSqlDialect {};
    let mut theirs = Vec::with_capacity(tokens.len());
    let (grammar, mut at) = (Grammar::of(tokens), 0);
    while let Some(token) = tokens.get(at) {
        let Rewritten { taken, with } = match grammar.rewritten(at) {
            Some(rewritten) => rewritten,
            None => Rewritten {
                taken: 1,
                with: vec![translate(token).ok_or(Unparsed::Unknown)?],
            },
        };
        theirs.extend(with.into_iter().map(|token| TokenWithSpan::new(token, place(at))));
        at += taken;
    }
    let mut parser = Parser::new(&dialect)
        .with_recursion_limit(MAX_NESTING)
        .with_tokens_with_locations(theirs);
    let mut statement = parser.parse_statement().map_err(|_| Unparsed::Unknown)?;
    if parser.peek_token().token != Theirs::EOF {
        return Err(Unparsed::Unknown);
    }
    let _ = statement.visit(&mut LeftJoined);
    Ok(statement)
}

/// Takes parentheses away that say what holds without them: `(a JOIN b) JOIN c`, as `pg_get_viewdef` writes joins.
struct LeftJoined;

impl VisitorMut for LeftJoined {
    type Break = ();

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        for tree in &mut select.from {
            while let TableFactor::NestedJoin {
                table_with_joins,
                alias: None,
            } = &mut tree.relation
            {
                let inner = TableWithJoins::clone(table_with_joins);
                tree.relation = inner.relation;
                tree.joins.splice(0..0, inner.joins);
            }
        }
        ControlFlow::Continue(())
    }
}

/// The place of the token of this number: its line, counted from 1.
fn place(token: usize) -> Span {
    let line = u64::try_from(token).unwrap_or(u64::MAX).saturating_add(1);
    Span::new(Location::new(line, 1), Location::new(line, 1))
}

/// The number of the token at a place of the tree; none where the parser has lost it.
pub(super) fn token_at(span: Span) -> Option<usize> {
    usize::try_from(span.start.line).ok()?.checked_sub(1)
}

/// The number of the token that a name in the tree is.
pub(super) fn token_of(ident: &Ident) -> Option<usize> {
    token_at(ident.span)
}

/// Operators in a row make the tree deeper by one each; commas do not.
fn bound_depth(tokens: &[Token]) -> Result<(), Refusal> {
    #[derive(Default)]
    struct Level {
        operators: usize,
        inner: usize,
        deepest: usize,
    }
    impl Level {
        fn end(&mut self) -> usize {
            self.deepest = self.deepest.max(self.operators + self.inner);
            (self.operators, self.inner) = (0, 0);
            self.deepest
        }
    }
    let mut open: Vec<Level> = Vec::new();
    let mut level = Level::default();
    for token in tokens {
        match &token.kind {
            Kind::Punctuation('(' | '[') => open.push(std::mem::take(&mut level)),
            Kind::Punctuation(')' | ']') => {
                if let Some(outer) = open.pop() {
                    let depth = level.end() + 1;
                    level = outer;
                    level.inner = level.inner.max(depth);
                }
                // A subscript of a subscript of ...
                level.operators += 1;
            }
            Kind::Punctuation(',') => {
                level.end();
            }
            // Any word may be an operator, a join or a UNION, except between the commas of a list.
            Kind::Operator(_) | Kind::Word(_) | Kind::Punctuation(_) => level.operators += 1,
            _ => {}
        }
    }
    open.push(level);
    let deepest = open.iter_mut().map(Level::end).sum::<usize>();
    if deepest > MAX_DEPTH {
        return Err(
            Refusal::new("54001", "the statement is too complex to be analysed")
                .hint("Write long lists with IN (...) or = ANY ($1) instead of many ORs."),
        );
    }
    Ok(())
}

fn translate(token: &Token) -> Option<Theirs> {
    Some(match &token.kind {
        Kind::Word(word) => Theirs::make_word(word, None),
        Kind::Quoted(name) => Theirs::make_word(name, Some('"')),
        Kind::Text(text) => Theirs::SingleQuotedString(text.clone()),
        Kind::Bits(bits) => one_token(bits)?,
        Kind::Number(number) => Theirs::Number(number.clone(), false),
        Kind::Parameter(number) => Theirs::Placeholder(format!("${number}")),
        Kind::Punctuation(mark) => match mark {
            '(' => Theirs::LParen,
            ')' => Theirs::RParen,
            '[' => Theirs::LBracket,
            ']' => Theirs::RBracket,
            ',' => Theirs::Comma,
            '.' => Theirs::Period,
            ':' => Theirs::Colon,
            ';' => Theirs::SemiColon,
            _ => return None,
        },
        Kind::Operator(operator) => one_token(operator)?,
    })
}

fn one_token(text: &str) -> Option<Theirs> {
    let mut tokens = Tokenizer::new(&PostgreSqlDialect {}, text).tokenize().ok()?;
    match (tokens.pop(), tokens.is_empty()) {
        (Some(token), true) => Some(token),
        _ => text
            .bytes()
            .all(|byte| b"~!@#^&|?+-*/%<>=".contains(&byte))
            .then(|| Theirs::CustomBinaryOperator(text.to_owned())),
    }
}
