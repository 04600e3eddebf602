//! What PostgreSQL's grammar has and the parser does not: said for the tree in words that the parser knows.
//!
//! The tree says what a statement reads, writes and calls; the groups get the text. So it may have less than the text where that is nothing
//! to do with rows and their places, and something else of the same weight: an operator of nobody's for `COLLATE`, which makes no condition
//! that could be taken for one on a column. Parameters are never left out: the tree is where they are counted.

use sqlparser::tokenizer::Token as Theirs;

use super::lexer::{Kind, Token};
use super::words::{Words, is_one_of, split_commas};

/// What stands for tokens: how many they are, and what it is.
pub(super) struct Rewritten {
    pub(super) taken: usize,
    pub(super) with: Vec<Theirs>,
}

/// Types of which `type 'constant'` is unknown to the parser.
const TYPES: [&str; 36] = [
    "box",
    "bpchar",
    "bytea",
    "char",
    "cidr",
    "circle",
    "citext",
    "cube",
    "daterange",
    "datemultirange",
    "float4",
    "float8",
    "hstore",
    "inet",
    "int2",
    "int4",
    "int4range",
    "int8",
    "int8range",
    "jsonpath",
    "line",
    "lseg",
    "ltree",
    "macaddr",
    "macaddr8",
    "money",
    "name",
    "numrange",
    "path",
    "pg_lsn",
    "point",
    "polygon",
    "tsquery",
    "tsrange",
    "tstzrange",
    "tsvector",
];

/// Operators of which the parser knows `operator ANY (...)`.
const COMPARING: [&str; 15] = [
    "=", "<>", "!=", "<", ">", "<=", ">=", "~", "~*", "!~", "!~*", "~~", "~~*", "!~~", "!~~*",
];

/// Looks for what the parser does not know.
pub(super) struct Grammar<'t> {
    tokens: &'t [Token],
    /// Where the first SET is.
    set: usize,
}

impl<'t> Grammar<'t> {
    pub(super) fn of(tokens: &'t [Token]) -> Grammar<'t> {
        let set = tokens.iter().position(|token| is_one_of(token, &["set"]));
        Grammar {
            tokens,
            set: set.unwrap_or(tokens.len()),
        }
    }

    /// What stands in the tree for the tokens that begin at this one; none where they are as they are.
    pub(super) fn rewritten(&self, at: usize) -> Option<Rewritten> {
        let word = match &self.tokens.get(at)?.kind {
            Kind::Word(word) => word.as_str(),
            Kind::Operator(operator) => return self.any(at, operator),
            Kind::Punctuation('[') => return self.subscripts(at),
            Kind::Text(text) => return self.frame(at, text),
            _ => return None,
        };
        match word {
            // TABLE name is SELECT * FROM name.
            "table" if is_table_query(self.tokens, at) => Some(Rewritten {
                taken: 1,
                with: vec![keyword("select"), Theirs::Mul, keyword("from")],
            }),
            "only" if is_only(self.tokens, at) => left_out(1),
            // They touch the same rows as FOR UPDATE and FOR SHARE.
            "for" if self.sees(at, &["for", "no", "key", "update"]) => words(4, &["for", "update"]),
            "for" if self.sees(at, &["for", "key", "share"]) => words(3, &["for", "share"]),
            // It only lets through what is given.
            "overriding" if self.sees(at, &["overriding", "system", "value", "values"]) => left_out(3),
            "isnull" | "notnull" if !self.is_behind(at, &["as"]) && !self.is_behind_mark(at, '.') => {
                let with: &[&str] = if word == "isnull" {
                    &["is", "null"]
                } else {
                    &["is", "not", "null"]
                };
                words(1, with)
            }
            "variadic" if self.is_behind_mark(at, '(') || self.is_behind_mark(at, ',') => opaque(1),
            "symmetric" if self.is_behind(at, &["between"]) => opaque(1),
            "exclude" if self.is_behind(at, &["following", "preceding", "row"]) => {
                const FRAMES: [&[&str]; 4] = [&["current", "row"], &["no", "others"], &["group"], &["ties"]];
                let frame = FRAMES.into_iter().find(|frame| self.sees(at + 1, frame))?;
                left_out(1 + frame.len())
            }
            "from" if self.is_behind(at, &["leading", "trailing", "both"]) => left_out(1),
            "collate" => self.collate(at),
            "on" if self.sees(at, &["on", "conflict"]) => self.conflict(at),
            "insert" if self.sees(at, &["insert", "default", "values"]) => {
                let with = vec![
                    keyword("insert"),
                    keyword("values"),
                    Theirs::LParen,
                    keyword("default"),
                    Theirs::RParen,
                ];
                Some(Rewritten { taken: 3, with })
            }
            "search" | "cycle" if self.is_behind_mark(at, ')') => self.recursion(at),
            _ if TYPES.contains(&word) => self.constant(at, word),
            _ => None,
        }
    }

    fn from(&self, at: usize) -> Words<'t> {
        Words::new(self.tokens.get(at..).unwrap_or_default())
    }

    fn sees(&self, at: usize, keywords: &[&str]) -> bool {
        self.from(at).sees(keywords)
    }

    fn before(&self, at: usize) -> Option<&'t Token> {
        self.tokens.get(at.checked_sub(1)?)
    }

    fn is_behind(&self, at: usize, keywords: &[&str]) -> bool {
        self.before(at).is_some_and(|token| is_one_of(token, keywords))
    }

    fn is_behind_mark(&self, at: usize, mark: char) -> bool {
        self.before(at)
            .is_some_and(|token| token.kind == Kind::Punctuation(mark))
    }

    /// How many tokens are before what is left, unless there are parameters among them.
    fn until(&self, at: usize, rest: &Words<'_>) -> Option<usize> {
        let taken = self
            .tokens
            .get(at..self.tokens.len().checked_sub(rest.rest().len())?)?;
        let parameter = |token: &Token| matches!(token.kind, Kind::Parameter(_));
        (!taken.iter().any(parameter)).then_some(taken.len())
    }

    /// `operator ANY (array or subquery)`: an operator before what is in the parentheses. For a subquery that begins with parentheses or VALUES
    /// IN where it is just that, and else NOT IN, which as little says which values are equal.
    fn any(&self, at: usize, operator: &str) -> Option<Rewritten> {
        let quantifier = self.tokens.get(at + 1)?;
        let mut rest = self.from(at + 2);
        if !is_one_of(quantifier, &["any", "all", "some"]) || !rest.take_mark('(') {
            return None;
        }
        if is_query(rest) {
            let equal = operator == "=" && !is_one_of(quantifier, &["all"]);
            return words(2, if equal { &["in"] } else { &["not", "in"] });
        }
        (!COMPARING.contains(&operator)).then(|| Rewritten {
            taken: 2,
            with: vec![Theirs::CustomBinaryOperator(operator.to_owned())],
        })
    }

    /// `'constant'::type PRECEDING`: of a window's frame nothing is known but that.
    fn frame(&self, at: usize, text: &str) -> Option<Rewritten> {
        let cast = is_operator(self.tokens.get(at + 1)?, "::");
        let bound = self
            .tokens
            .get(at + 3)
            .is_some_and(|token| is_one_of(token, &["preceding", "following"]));
        (cast && bound).then(|| Rewritten {
            taken: 1,
            with: vec![Theirs::AtSign, Theirs::SingleQuotedString(text.to_owned())],
        })
    }

    /// `SET column[...] = `, of constants and columns: the column is set.
    fn subscripts(&self, at: usize) -> Option<Rewritten> {
        let name = at.checked_sub(1)?;
        let named = matches!(self.tokens[name].kind, Kind::Word(_) | Kind::Quoted(_));
        if at < self.set || !named || !(self.is_behind(name, &["set"]) || self.is_behind_mark(name, ',')) {
            return None;
        }
        let mut end = at;
        while self.tokens.get(end)?.kind == Kind::Punctuation('[') {
            let inside = self.tokens[end + 1..].iter().take_while(|token| {
                matches!(
                    token.kind,
                    Kind::Number(_) | Kind::Text(_) | Kind::Word(_) | Kind::Punctuation(':')
                )
            });
            end += 1 + inside.count();
            (self.tokens.get(end)?.kind == Kind::Punctuation(']')).then_some(())?;
            end += 1;
        }
        is_operator(self.tokens.get(end)?, "=").then(|| left_out(end - at))?
    }

    /// `type 'constant'` is `'constant'::type`.
    fn constant(&self, at: usize, name: &str) -> Option<Rewritten> {
        let Kind::Text(text) = &self.tokens.get(at + 1)?.kind else {
            return None;
        };
        (!self.is_behind_mark(at, '.')).then(|| Rewritten {
            taken: 2,
            with: vec![
                Theirs::SingleQuotedString(text.clone()),
                Theirs::DoubleColon,
                keyword(name),
            ],
        })
    }

    /// `COLLATE name` behind a cast, which the parser takes for a part of the type.
    fn collate(&self, at: usize) -> Option<Rewritten> {
        /// Tokens of the longest names of types: `pg_catalog.timestamp(3) without time zone[]`.
        const LONGEST: usize = 11;
        let behind = self.tokens.get(at.saturating_sub(LONGEST)..at)?;
        if !behind.iter().any(|token| is_operator(token, "::")) {
            return None;
        }
        let mut rest = self.from(at + 1);
        let name = rest.dotted_name()?.join(".");
        Some(Rewritten {
            taken: self.until(at, &rest)?,
            with: vec![
                Theirs::CustomBinaryOperator("collate".to_owned()),
                Theirs::SingleQuotedString(name),
            ],
        })
    }

    /// The columns and expressions by which ON CONFLICT finds an index, and its WHERE.
    fn conflict(&self, at: usize) -> Option<Rewritten> {
        let mut rest = self.from(at + 2);
        let target = rest.parenthesised()?;
        let names = split_commas(target).into_iter().all(|item| item.len() == 1);
        if rest.sees(&["do"]) && names {
            return None;
        }
        while !rest.sees(&["do"]) {
            rest.next()?;
        }
        let taken = self.until(at, &rest)?;
        let subquery = self.tokens[at..at + taken]
            .iter()
            .any(|token| is_one_of(token, &["select", "table", "values"]));
        (!subquery).then(|| words(taken, &["on", "conflict"]))?
    }

    /// SEARCH and CYCLE of a query of WITH RECURSIVE: columns more that it gives.
    fn recursion(&self, at: usize) -> Option<Rewritten> {
        let mut rest = self.from(at);
        let names = |rest: &mut Words<'_>| {
            rest.name()?;
            while rest.take_mark(',') {
                rest.name()?;
            }
            rest.take(&["set"]).then(|| rest.name())?
        };
        if rest.take(&["search", "depth", "first", "by"]) || rest.take(&["search", "breadth", "first", "by"])
        {
            names(&mut rest)?;
        }
        if rest.take(&["cycle"]) {
            names(&mut rest)?;
            if rest.take(&["to"]) {
                rest.next()?;
                rest.take(&["default"]).then(|| rest.next())??;
            }
            rest.take(&["using"]).then(|| rest.name())??;
        }
        let taken = self.until(at, &rest)?;
        (taken > 0).then(|| left_out(taken))?
    }
}

/// Whether these words, behind a parenthesis, are VALUES or a query that begins with another one: not one that is a part of an expression.
fn is_query(mut words: Words<'_>) -> bool {
    const BEHIND: [&str; 7] = [
        "union",
        "intersect",
        "except",
        "order",
        "limit",
        "offset",
        "fetch",
    ];
    let mut inner = words;
    while inner.take_mark('(') {}
    let queries = ["select", "with", "values", "table"];
    words.sees(&["values"])
        || queries.iter().any(|word| inner.sees(&[word]))
            && words.parenthesised().is_some()
            && (words.peek() == Some(&Kind::Punctuation(')'))
                || BEHIND.iter().any(|word| words.sees(&[word])))
}

fn is_operator(token: &Token, operator: &str) -> bool {
    matches!(&token.kind, Kind::Operator(found) if found == operator)
}

fn keyword(word: &str) -> Theirs {
    Theirs::make_word(word, None)
}

fn left_out(taken: usize) -> Option<Rewritten> {
    words(taken, &[])
}

fn words(taken: usize, with: &[&str]) -> Option<Rewritten> {
    Some(Rewritten {
        taken,
        with: with.iter().map(|word| keyword(word)).collect(),
    })
}

/// An operator before what follows, of which nothing is known.
fn opaque(taken: usize) -> Option<Rewritten> {
    Some(Rewritten {
        taken,
        with: vec![Theirs::AtSign],
    })
}

/// Whether the token of this number is the TABLE of a query `TABLE name`, which is `SELECT * FROM name`. It is a reserved word: in a statement on
/// rows it is nothing else but after INTO.
pub(super) fn is_table_query(tokens: &[Token], at: usize) -> bool {
    let into = ["into", "temp", "temporary", "local", "global", "unlogged"];
    let before = at.checked_sub(1).map(|before| &tokens[before].kind);
    tokens[at].kind == Kind::Word("table".to_owned())
        && !matches!(before, Some(Kind::Word(word)) if into.contains(&word.as_str()))
}

/// Whether the token of this number is ONLY before a table that a query reads: without the tables that inherit from it.
pub(super) fn is_only(tokens: &[Token], at: usize) -> bool {
    let reads = matches!(tokens.first().map(|token| &token.kind), Some(Kind::Word(word)) if ["select", "with"].contains(&word.as_str()));
    let before = match at.checked_sub(1).map(|before| &tokens[before].kind) {
        Some(Kind::Word(word)) => word == "from" || word == "join",
        Some(Kind::Punctuation(',')) => true,
        _ => false,
    };
    let name = matches!(
        tokens.get(at + 1).map(|token| &token.kind),
        Some(Kind::Word(_) | Kind::Quoted(_))
    );
    reads && before && name && tokens[at].kind == Kind::Word("only".to_owned())
}
