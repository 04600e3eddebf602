//! SELECT, VALUES, INSERT, UPDATE, DELETE: from the tree to a plan.

use std::sync::Arc;

use sqlparser::ast::{
    Distinct, Expr, GroupByExpr, Query as Tree, Select, SelectItem, SetExpr, Statement, TableFactor,
};

use super::Refusal;
use super::check::{self, Findings};
use super::distributed::{self, Gathering};
use super::lexer::{self, Token, quoted};
use super::parse::{self, Unparsed};
use super::plan::{Access, Form, HomeUse, Plan, Query, RelationName, Spread, Tag, Target};
use super::proof::{Proof, View, not_understood};
use super::relations::Names;
use super::scope::Instance;
use super::{
    Computed, ValuesRows, bring, copies, fallback, feed, inline, moves, sizes, subquery, temporary, writes,
};

/// Plans a statement that reads or writes rows.
pub(super) fn plan(tokens: &[Token], names: Names<'_>) -> Result<Plan, Refusal> {
    plan_within(tokens, names, MAX_VIEWS)
}

/// How deep views may stand for views.
const MAX_VIEWS: usize = 32;

fn plan_within(tokens: &[Token], names: Names<'_>, depth: usize) -> Result<Plan, Refusal> {
    let statement = match parse::parse(tokens) {
        Ok(statement) => statement,
        Err(Unparsed::Refused(refusal)) => return Err(refusal),
        Err(Unparsed::Unknown) => return Ok(fallback::plan(tokens, names)),
    };
    let findings = match check::look(&statement, names.catalogue) {
        Ok(findings) => findings,
        // PostgreSQL may not have the function either, and says so better.
        Err(refusal) => return Ok(Plan::Judge(refusal)),
    };
    for call in &findings.sequences {
        if !call.is_temporary(names) {
            return Ok(Plan::Judge(call.refusal.clone()));
        }
    }
    let mut proof = Proof::new(names);
    proof.temporary = !findings.sequences.is_empty();
    proof.writes = proof.temporary;
    let walked = match &statement {
        Statement::Query(query) => proof.query(query, &[]).map(drop),
        statement => writes::walk(&mut proof, statement),
    };
    if let Err(refusal) = walked {
        return Ok(Plan::Judge(refusal));
    }
    if !proof.views.is_empty() {
        if depth == 0 {
            return Err(Refusal::new("54001", "views are nested too deep"));
        }
        return expanded(tokens, names, &proof.views, depth - 1);
    }
    if let Some(unknown) = &proof.unknown {
        return Ok(Plan::Judge(
            Refusal::unsupported(format!("relation \"{unknown}\" is not known to Howdah"))
                .detail("It is neither a distributed table nor one of PostgreSQL's own relations."),
        ));
    }
    if (proof.relations, proof.queries) != (findings.relations, findings.queries) {
        // A part of the tree that the walk does not know: nothing is proved.
        return Err(not_understood("the statement"));
    }
    let access = match &findings.home {
        _ if proof.writes => Access::Write,
        Some((used, _)) => used.access(),
        None => Access::Read,
    };
    if let Some(moved) = &proof.moved {
        let at = &proof.instances[moved.instance];
        if let Some(what) = writing(&statement).or_else(|| obstacle(tokens, &statement, &proof, &findings)) {
            return Ok(Plan::Judge(moves::refusal(
                at,
                &format!("by a statement with {what}"),
            )));
        }
    }
    if depth > 0
        && matches!(statement, Statement::Query(_))
        && is_of_rows(&proof, &findings)
        && let Some(plan) = without_with(tokens, names, (&statement, &proof), depth - 1)
    {
        return Ok(plan);
    }
    if changes_rows(&statement, &proof, &findings)
        && obstacle(tokens, &statement, &proof, &findings).is_some()
    {
        let (target, needs) = bring::plan(tokens, &statement, &proof, &findings)?;
        let form = match needs {
            bring::Needs::Nothing => Form::Plain,
            bring::Needs::Rows(bring) => Form::Brings(Arc::from(bring)),
        };
        return Ok(Plan::Query(Query {
            access,
            target,
            tag: Tag::AsIs,
            form,
            draws: None,
        }));
    }
    if let (Some(fed), Statement::Insert(_)) = (&proof.fed, &statement)
        && !proof.temporary
        && findings.home.is_none()
    {
        return feed::plan(tokens, names, (&proof, &findings), fed);
    }
    if let Some((rows, key_at)) = &proof.computes {
        return computed(tokens, &statement, (&proof, &findings), (rows, *key_at));
    }
    if findings.relations == 0 && sizes::measures(tokens) {
        return sizes::plan(tokens, &statement, &findings, names);
    }
    let (target, gathering) = target(tokens, &statement, &proof, &findings)?;
    if gathering.as_ref().is_some_and(Gathering::is_of_all_rows)
        && depth > 0
        && let Some(text) = inline::inlined(tokens, names.text, &statement)
        && let Some(plan) = inlined(tokens, names, &text, depth - 1)
    {
        return Ok(plan);
    }
    let tag = if matches!(statement, Statement::Query(_)) {
        Tag::Select
    } else {
        Tag::AsIs
    };
    let form = match gathering {
        None if let Some(moved) = &proof.moved => match moves::plan(tokens, moved, &proof, &findings) {
            Ok(moves) => Form::Moves(Arc::new(moves)),
            Err(refusal) => return Ok(Plan::Judge(refusal)),
        },
        Some(gathering) if proof.writes => Form::Locks(Arc::new(gathering)),
        Some(gathering) => Form::Gathered(Arc::new(gathering)),
        None if counts_rows(&statement) => Form::Count,
        None => Form::Plain,
    };
    Ok(Plan::Query(Query {
        access,
        target,
        tag,
        form,
        draws: None,
    }))
}

/// Whether it is an UPDATE, DELETE or MERGE of rows that are not in every group, and nothing else is to be seen to.
fn changes_rows(statement: &Statement, proof: &Proof<'_>, findings: &Findings) -> bool {
    matches!(
        statement,
        Statement::Update(_) | Statement::Delete(_) | Statement::Merge(_)
    ) && is_of_rows(proof, findings)
}

/// Whether all that it writes is rows that are not in every group, and nothing else is to be seen to.
fn is_of_rows(proof: &Proof<'_>, findings: &Findings) -> bool {
    proof.copies.is_none()
        && !proof.temporary
        && !proof.instances.is_empty()
        && findings.home.is_none()
        && !(proof.references && copies::locked(proof))
}

/// The plan of an UPDATE, DELETE, MERGE or INSERT ... SELECT after WITH, by a text that says the same without.
fn without_with(
    tokens: &[Token],
    names: Names<'_>,
    (statement, proof): (&Statement, &Proof<'_>),
    depth: usize,
) -> Option<Plan> {
    let Statement::Query(query) = statement else {
        return None;
    };
    query.with.as_ref()?;
    let text = match &*query.body {
        // With its keys it is for one group as it is.
        SetExpr::Insert(_) if proof.keys().is_none() => inline::moved(tokens, names.text, statement)?,
        SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
            inline::inlined(tokens, names.text, statement)?
        }
        _ => return None,
    };
    let whole = tokens.first()?.range.start..tokens.last()?.range.end;
    let inner = lexer::tokens(&text).ok()?;
    let Ok(Plan::Query(mut query)) = plan_within(&inner, Names { text: &text, ..names }, depth) else {
        return None;
    };
    match &mut query.form {
        // The groups get the client's own text.
        Form::Plain => {}
        Form::Brings(bring) => Arc::make_mut(bring).gathering.is_of(whole, &text),
        Form::Feeds(feed) => Arc::make_mut(feed).is_of_text(&text),
        _ => return None,
    }
    match &query.target {
        Target::All | Target::Keys(_, Spread::Concatenate | Spread::Refuse(_)) => Some(Plan::Query(query)),
        _ => None,
    }
}

/// Plans an INSERT of VALUES of which these rows have a shard key that is no constant, at this place in each.
fn computed(
    tokens: &[Token],
    statement: &Statement,
    (proof, findings): (&Proof<'_>, &Findings),
    (rows, key_at): (&[usize], usize),
) -> Result<Plan, Refusal> {
    let Some(instance) = proof.instances.first() else {
        return Err(not_understood("INSERT"));
    };
    let refused = |what: &str| {
        let words = format!("The shard key is an expression, in a statement with {what}.");
        Ok(Plan::Judge(writes::keyless(instance).detail(words)))
    };
    if !matches!(statement, Statement::Insert(_)) {
        return refused("WITH");
    }
    if let Some((_, function)) = &findings.home {
        return Ok(Plan::Judge(with_rows(function)));
    }
    // It would make several rows of one, each with a key of its own.
    if let Some(function) = &findings.multiplies {
        return refused(function);
    }
    if let Some(what) = obstacle(tokens, statement, proof, findings) {
        return refused(&what);
    }
    if proof.temporary || proof.references {
        return refused("other tables");
    }
    let found = Computed::find(tokens, rows, key_at, instance.key);
    let Some(computed) = found.filter(|_| ValuesRows::find(tokens).is_some()) else {
        return refused("other words around VALUES");
    };
    Ok(Plan::Query(Query {
        access: Access::Write,
        target: Target::All,
        tag: Tag::AsIs,
        form: Form::Computes(Arc::new(computed)),
        draws: None,
    }))
}

/// Plans a statement with views by what they stand for. It is still the client's own text that the groups get, unless rows are
/// gathered: then what it reads is read by the client's own rights, and the query over it has the views' queries in it.
fn expanded(tokens: &[Token], names: Names<'_>, views: &[View<'_>], depth: usize) -> Result<Plan, Refusal> {
    let (Some(first), Some(last)) = (tokens.first(), tokens.last()) else {
        return Err(not_understood("the statement"));
    };
    let whole = first.range.start..last.range.end;
    let mut views: Vec<&View<'_>> = views.iter().collect();
    views.sort_by_key(|view| view.at);
    let (mut text, mut from) = (String::new(), whole.start);
    for view in views {
        let range = |at: usize| tokens.get(at).map(|token| token.range.clone());
        let (Some(start), Some(end)) = (range(view.at.0), range(view.at.1)) else {
            return Err(not_understood("FROM"));
        };
        text.push_str(names.text.get(from..start.start).unwrap_or_default());
        text.push_str(&format!("({})", view.definition.trim_end().trim_end_matches(';')));
        if let Some(name) = &view.name {
            text.push_str(&format!(" AS {}", quoted(name)));
        }
        from = end.end;
    }
    text.push_str(names.text.get(from..whole.end).unwrap_or_default());
    let inner = lexer::tokens(&text)?;
    let mut plan = plan_within(&inner, Names { text: &text, ..names }, depth)?;
    if let Plan::Query(query) = &mut plan {
        match &mut query.form {
            Form::Gathered(gathering) => Arc::make_mut(gathering).is_of(whole, &text),
            Form::Brings(bring) => Arc::make_mut(bring).gathering.is_of(whole, &text),
            Form::Feeds(feed) => Arc::make_mut(feed).is_of(tokens, names)?,
            // It is cut out of the text.
            Form::Moves(_) => {
                return Err(
                    Refusal::unsupported("an UPDATE of the shard key with a view is not supported")
                        .hint("Write the view's query in the statement."),
                );
            }
            _ => {}
        }
        if let Target::Keys(_, spread @ Spread::Rows(_)) = &mut query.target
            && let Some(rows) = ValuesRows::find(tokens)
        {
            *spread = Spread::Rows(rows);
        }
    }
    Ok(plan)
}

/// The plan of a statement by a text that has the queries of WITH where they are used, if so the groups compute it for their own rows.
fn inlined(tokens: &[Token], names: Names<'_>, text: &str, depth: usize) -> Option<Plan> {
    let whole = tokens.first()?.range.start..tokens.last()?.range.end;
    let inner = lexer::tokens(text).ok()?;
    let Ok(Plan::Query(mut query)) = plan_within(&inner, Names { text, ..names }, depth) else {
        return None;
    };
    match &mut query.form {
        Form::Plain if query.target == Target::All => {}
        Form::Gathered(gathering) if !gathering.is_of_all_rows() => {
            Arc::make_mut(gathering).is_of(whole, text)
        }
        _ => return None,
    }
    Some(Plan::Query(query))
}

/// Whether `count(*)` is all that is selected.
fn counts_rows(statement: &Statement) -> bool {
    let Statement::Query(query) = statement else {
        return false;
    };
    match &*query.body {
        SetExpr::Select(select) if is_grouped(select) => false,
        SetExpr::Select(select) => match select.projection.as_slice() {
            [
                SelectItem::UnnamedExpr(Expr::Function(function))
                | SelectItem::ExprWithAlias {
                    expr: Expr::Function(function),
                    ..
                },
            ] => function.to_string() == "count(*)",
            _ => false,
        },
        _ => false,
    }
}

fn target(
    tokens: &[Token],
    statement: &Statement,
    proof: &Proof<'_>,
    findings: &Findings,
) -> Result<(Target, Option<Gathering>), Refusal> {
    if let Some(table) = proof.copies {
        copies::check(tokens, table, statement, proof, findings)?;
        return Ok((Target::Copies(RelationName::of(table)), None));
    }
    if proof.temporary || proof.instances.is_empty() {
        return Ok((target_of_one(proof, findings)?, None));
    }
    if proof.references && copies::locked(proof) {
        return Err(Refusal::unsupported(
            "FOR UPDATE or FOR SHARE of a reference table together with other tables is not supported",
        )
        .detail("Whoever writes to a reference table looks at locks in the first group first.")
        .hint("Name the other tables: FOR UPDATE OF ..."));
    }
    if let Some((_, function)) = &findings.home {
        return Err(with_rows(function));
    }
    let obstacle = obstacle(tokens, statement, proof, findings);
    let gathering = match (&obstacle, statement) {
        (Some(_), Statement::Query(_)) if proof.writes => {
            distributed::locking::plan(tokens, statement, proof, findings)
        }
        (Some(_), Statement::Query(_)) => Some(distributed::plan(tokens, statement, proof, findings)),
        _ => None,
    };
    if let Some(gathering) = gathering {
        let target = match (proof.keys(), &gathering) {
            (None, Err(refusal)) => return Err(refusal.clone()),
            (None, Ok(_)) => Target::All,
            (Some(mut keys), gathering) => {
                check::mark_open_parameters(&mut keys, findings);
                let refused = |refusal: &Refusal| Spread::Refuse(refusal.clone());
                let spread = gathering.as_ref().err().map_or(Spread::Concatenate, refused);
                Target::Keys(keys, spread)
            }
        };
        return Ok((target, gathering.ok()));
    }
    Ok((
        target_of_rows(tokens, statement, proof, findings, obstacle)?,
        None,
    ))
}

/// Of a statement that is bound to one group, or needs none.
fn target_of_one(proof: &Proof<'_>, findings: &Findings) -> Result<Target, Refusal> {
    if proof.temporary {
        if let Some((_, function)) = &findings.home {
            return Err(with_rows(function));
        }
        return match proof.keys() {
            _ if proof.instances.is_empty() => Ok(Target::Home(HomeUse::Temporary)),
            Some(mut keys) => {
                check::mark_open_parameters(&mut keys, findings);
                Ok(Target::Keys(keys, Spread::Home(temporary::together())))
            }
            None => Err(temporary::together()),
        };
    }
    Ok(match findings.home {
        Some((used, _)) => Target::Home(used),
        // Its locks must be where writers come first.
        None if proof.references && proof.writes => Target::Home(HomeUse::Asks),
        None if proof.references => Target::Home(HomeUse::Reference),
        None => Target::Any,
    })
}

/// Of a statement that each group can run on its own rows, unless there is an obstacle.
fn target_of_rows(
    tokens: &[Token],
    statement: &Statement,
    proof: &Proof<'_>,
    findings: &Findings,
    obstacle: Option<String>,
) -> Result<Target, Refusal> {
    let Some(mut keys) = proof.keys() else {
        return match obstacle {
            None => Ok(Target::All),
            Some(what) => Err(refusal(&what, proof.unpinned())),
        };
    };
    check::mark_open_parameters(&mut keys, findings);
    let spread = match obstacle {
        None if matches!(statement, Statement::Insert(_)) => {
            match ValuesRows::find(tokens).filter(|rows| rows.len() == keys.len()) {
                Some(rows) => Spread::Rows(rows),
                None => Spread::Refuse(several("INSERT", proof.instances.first())),
            }
        }
        None => Spread::Concatenate,
        Some(what) => Spread::Refuse(several(&what, proof.instances.first())),
    };
    Ok(Target::Keys(keys, spread))
}

/// What stands in the way of running a statement on several groups and concatenating their rows: anything that
/// is not a plain SELECT, UPDATE or DELETE of one table, row by row, or INSERT of VALUES.
///
/// A row of such an UPDATE or DELETE is found, changed and returned by what is in the row, the constants and the
/// parameters. So each group, which sees its own rows alone, does with each what a server with all rows would do.
fn obstacle(
    tokens: &[Token],
    statement: &Statement,
    proof: &Proof<'_>,
    findings: &Findings,
) -> Option<String> {
    let query = match statement {
        Statement::Query(query) => query,
        Statement::Update(update) => {
            let more = update.from.is_some().then_some("UPDATE ... FROM");
            return more
                .map(str::to_owned)
                .or_else(|| beyond_rows(0, proof, findings));
        }
        Statement::Delete(delete) => {
            let more = delete.using.is_some().then_some("DELETE ... USING");
            return more
                .map(str::to_owned)
                .or_else(|| beyond_rows(0, proof, findings));
        }
        Statement::Insert(_) => return beyond_rows(1, proof, findings),
        Statement::Merge(_) => return Some("MERGE".to_owned()),
        _ => return Some("this statement".to_owned()),
    };
    if proof.writes && (query.locks.is_empty() || query.with.is_some()) {
        return writing(statement);
    }
    if proof.writes {
        // Each group locks its own rows of the one table.
        let mut unlocked = query.clone();
        unlocked.locks.clear();
        let more = match plain_queries(&unlocked) {
            Ok(queries) => beyond_rows(queries, proof, findings),
            Err(obstacle) => Some(obstacle),
        };
        return more.map(|what| format!("FOR UPDATE or FOR SHARE with {what}"));
    }
    if query.with.is_none() && distributed::are_whole(tokens, statement, proof, findings) {
        return None;
    }
    let queries = match plain_queries(query) {
        Ok(queries) => queries,
        Err(obstacle) => return Some(obstacle),
    };
    // No other aggregate can stand anywhere: not in WHERE, and HAVING and ORDER BY are obstacles.
    let counts = counts_rows(statement) && findings.local.is_none();
    beyond_rows(queries, proof, findings).filter(|what| !counts || what != "\"count()\"")
}

/// What takes more than one row of one table to compute. `queries`: how many the statement's plain form has.
fn beyond_rows(queries: usize, proof: &Proof<'_>, findings: &Findings) -> Option<String> {
    if findings.queries > queries {
        Some("a subquery".to_owned())
    } else if findings.relations > 1 || proof.instances.len() > 1 {
        Some("a join".to_owned())
    } else {
        let found = findings.aggregate.as_ref().or(findings.local.as_ref());
        found.map(|name| format!("\"{name}\""))
    }
}

/// What it is that writes, or locks, in a statement that is a query, or begins as one does; nothing else in an UPDATE.
fn writing(statement: &Statement) -> Option<String> {
    let Statement::Query(query) = statement else {
        return (!matches!(statement, Statement::Update(_))).then(|| "a writing WITH".to_owned());
    };
    let verb = |body: &SetExpr| match body {
        SetExpr::Insert(_) => Some("INSERT"),
        SetExpr::Update(_) => Some("UPDATE"),
        SetExpr::Delete(_) => Some("DELETE"),
        SetExpr::Merge(_) => Some("MERGE"),
        _ => None,
    };
    let mut with = query.with.iter().flat_map(|with| &with.cte_tables);
    if with.any(|inner| verb(&inner.query.body).is_some()) {
        return Some("a writing WITH".to_owned());
    }
    Some(match verb(&query.body) {
        Some(verb) => format!("such a WITH before {verb}"),
        None if query.locks.is_empty() => "FOR UPDATE or FOR SHARE in a subquery".to_owned(),
        None => "FOR UPDATE or FOR SHARE with WITH".to_owned(),
    })
}

/// How many queries a SELECT of one table row by row has: itself, and those in FROM that are such SELECTs, as views may be.
///
/// # Errors
/// With the obstacle, if it is something else.
pub(super) fn plain_queries(query: &Tree) -> Result<usize, String> {
    let SetExpr::Select(select) = &*query.body else {
        return Err(match &*query.body {
            SetExpr::SetOperation { .. } => "UNION, INTERSECT or EXCEPT",
            _ => "a parenthesised query",
        }
        .to_owned());
    };
    let grouped = is_grouped(select);
    let inner = match select.from.as_slice() {
        [only] if only.joins.is_empty() => match &only.relation {
            TableFactor::Table { args: None, .. } => Some(0),
            TableFactor::Derived {
                lateral: false,
                subquery,
                sample: None,
                ..
            } => {
                let inner = plain_queries(subquery)?;
                match &*subquery.body {
                    SetExpr::Select(inner) if subquery::has_call(inner) => {
                        return Err("a subquery with aggregates".to_owned());
                    }
                    _ => Some(inner),
                }
            }
            _ => None,
        },
        _ => None,
    };
    let found = match () {
        () if query.with.is_some() => "WITH",
        () if !query.locks.is_empty() => "FOR UPDATE or FOR SHARE",
        () if query.order_by.is_some() => "ORDER BY",
        () if query.limit_clause.is_some() || query.fetch.is_some() => "LIMIT or OFFSET",
        () if matches!(select.distinct, Some(Distinct::Distinct | Distinct::On(_))) => "DISTINCT",
        () if grouped => "GROUP BY",
        () if select.having.is_some() => "HAVING",
        () if !select.named_window.is_empty() => "WINDOW",
        () if select.projection.iter().any(odd_item) => "this list of results",
        () => return inner.map(|inner| inner + 1).ok_or_else(|| "a join".to_owned()),
    };
    Err(found.to_owned())
}

fn is_grouped(select: &Select) -> bool {
    match &select.group_by {
        GroupByExpr::All(_) => true,
        GroupByExpr::Expressions(by, modifiers) => !by.is_empty() || !modifiers.is_empty(),
    }
}

fn odd_item(item: &SelectItem) -> bool {
    matches!(item, SelectItem::ExprWithAliases { .. })
        || matches!(
            item,
            SelectItem::UnnamedExpr(Expr::GroupingSets(_) | Expr::Cube(_) | Expr::Rollup(_))
        )
}

/// What is in the home group, and rows.
fn with_rows(function: &str) -> Refusal {
    Refusal::unsupported(format!(
        "{function} in a statement on rows of tables is not supported"
    ))
    .detail("It works in the cluster's first group, and the rows may be in others.")
    .hint(format!(
        "Call it in a SELECT of its own: SELECT {}$1).",
        function.trim_end_matches(')')
    ))
}

/// No key at all.
fn refusal(what: &str, instance: Option<&Instance<'_>>) -> Refusal {
    several(what, instance).detail(
        "Nothing in the statement proves that all rows that it touches are in one group: each table's shard key \
         must equal a constant, a parameter or the shard key of a table for which it does.",
    )
}

/// Keys that may be of several groups.
fn several(what: &str, instance: Option<&Instance<'_>>) -> Refusal {
    let refusal = Refusal::unsupported(format!("{what} on rows of several groups is not supported yet"));
    let Some(instance) = instance else { return refusal };
    let table = &instance.table.name;
    let key = instance
        .table
        .key_column()
        .map(|column| column.name.as_str())
        .unwrap_or_default();
    if what == "INSERT" {
        return refusal.hint(format!(
            "Insert rows of one group at a time: one row per statement, or rows with the same \"{key}\"."
        ));
    }
    refusal.hint(format!(
        "Add WHERE {table}.{key} = ... so that the statement runs on one group."
    ))
}
