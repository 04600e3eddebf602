//! The proof that a statement's rows are where the plan says: the walk over its tree.
//!
//! **Invariant.** A statement runs on one group only if every use of a distributed table in it (an
//! [`Instance`]) is *pinned* to keys of that group: removing all rows of that instance with other keys leaves the
//! statement's result and effect as they are. Then the rows of the group alone give the whole result, however
//! complicated the statement is. What pins an instance `t`:
//!
//! 1. A conjunct `t.key = constant` or `t.key IN (constants)` of the WHERE of its own query block, whatever joins
//!    the block has: rows with other keys end in no result row, and a NULL-extended `t.key` fails it too.
//! 2. The same conjunct in the ON of an inner join that no later RIGHT or FULL join extends; or in the ON of a
//!    LEFT JOIN of which `t` is the right side: ON then drops the other rows of `t` before they meet anything.
//! 3. A conjunct `t.key = u.key` in such a place, for a `u` that is pinned (to the same keys) and whose key is of
//!    the same type, in the same block; or in a block around a subquery expression of which `t` is in WHERE.
//! 4. `t` is the target of INSERT: the keys of the rows in VALUES.
//!    `u.key IN (SELECT t.key ...)` is such an equality, too, where rows of `t` with other keys come to rows of the subquery with other values
//!    ([`super::subquery`]).
//!    So of a row that MERGE inserts, which is an instance by itself ([`super::upsert`]).
//! 5. What rules 1 to 3 say of a column of a subquery in FROM, where that is the plain shard key of `t` in the subquery's own
//!    FROM, and rows of `t` with other keys come to rows of the subquery with other values there ([`super::subquery`]).
//!
//! A set operation, a CTE or a subquery needs nothing of its own: each block's instances are pinned or not.
//! Rules 1 to 3 are in [`super::pins`], rule 4 in [`super::writes`].
//! Nothing that is under OR, NOT or anything but AND counts. What is not understood pins nothing.

use std::ops::ControlFlow;

use coordinator::catalogue::{Placement, Relation};
use sqlparser::ast::{
    Expr, JoinConstraint, ObjectName, ObjectNamePart, Query, Select, SelectFlavor, SetExpr, Statement,
    TableAlias, TableFactor, TableWithJoins, Visit, Visitor, With,
};

use super::Refusal;
use super::feed::Fed;
use super::moves::Moved;
use super::parse;
use super::pins::{JoinKind, Pins, constraint, uses_names};
use super::plan::Key;
use super::relations::{Named, Names, misread_table, parts, relation_parts};
use super::scope::{Block, Instance, Item, Scope};
use super::subquery;
use super::upsert::Merged;

/// A use of a view in a statement.
pub(super) struct View<'a> {
    /// The first and the last token of its name.
    pub(super) at: (usize, usize),
    /// The query that it stands for.
    pub(super) definition: &'a str,
    /// What its columns are qualified with, where no alias says so.
    pub(super) name: Option<String>,
}

/// What walking a statement found.
pub(super) struct Proof<'a> {
    pub(super) names: Names<'a>,
    /// Every use of a table whose rows are not in every group.
    pub(super) instances: Vec<Instance<'a>>,
    /// Views that it reads: the tokens of each one's name, what it stands for, and the name that columns are qualified with, where
    /// none follows.
    pub(super) views: Vec<View<'a>>,
    /// Whether it uses reference tables.
    pub(super) references: bool,
    /// Those that it uses.
    pub(super) reference_tables: Vec<&'a Relation>,
    /// Each use of one under the names that it has: the first token of its name.
    references_at: Vec<(usize, &'a Relation)>,
    /// The reference table that it writes to.
    pub(super) copies: Option<&'a Relation>,
    /// What FOR UPDATE and the like name; none for one that names nothing.
    pub(super) locked: Vec<Option<String>>,
    /// Keys that pin an instance.
    pins: Vec<(usize, Vec<Key>)>,
    /// `(from, to)`: if `from` is pinned then `to` is, to the same keys.
    pub(super) edges: Vec<(usize, usize)>,
    /// Of subqueries in expressions that give a shard key and nothing else: where they are in the tree, and the instance that it is of.
    pub(super) listed: Vec<(*const Query, usize)>,
    /// The CTE names that are visible where the walk is.
    ctes: Vec<String>,
    /// How many relations, queries were walked: must be all that the tree has.
    pub(super) relations: usize,
    pub(super) queries: usize,
    /// A relation that the catalogue does not know.
    pub(super) unknown: Option<String>,
    /// Whether it writes or locks.
    pub(super) writes: bool,
    /// Whether it writes to a table that is no reference table.
    pub(super) writes_rows: bool,
    /// Whether it reads PostgreSQL's own relations.
    pub(super) system: bool,
    /// Whether it uses temporary relations.
    pub(super) temporary: bool,
    /// An INSERT ... SELECT in it, the last one.
    pub(super) fed: Option<Fed>,
    /// Of an INSERT of VALUES: which rows have a shard key that is no constant, and where it is in each.
    pub(super) computes: Option<(Vec<usize>, usize)>,
    /// An UPDATE in it that sets a shard key.
    pub(super) moved: Option<Moved>,
    /// What is known of a MERGE.
    pub(super) merged: Merged,
}

impl<'a> Proof<'a> {
    pub(super) fn new(names: Names<'a>) -> Proof<'a> {
        Proof {
            names,
            instances: Vec::new(),
            views: Vec::new(),
            references: false,
            reference_tables: Vec::new(),
            references_at: Vec::new(),
            copies: None,
            locked: Vec::new(),
            pins: Vec::new(),
            edges: Vec::new(),
            listed: Vec::new(),
            ctes: Vec::new(),
            relations: 0,
            queries: 0,
            unknown: None,
            writes: false,
            writes_rows: false,
            system: false,
            temporary: false,
            fed: None,
            computes: None,
            moved: None,
            merged: Merged::default(),
        }
    }

    /// The reference table whose name begins with this token, if its columns have the names that it gives them.
    pub(super) fn reference_at(&self, token: usize) -> Option<&'a Relation> {
        let mut uses = self.references_at.iter();
        uses.find(|(at, _)| *at == token).map(|(_, table)| *table)
    }

    /// The keys that pin all instances together; none if one is not pinned.
    pub(super) fn keys(&self) -> Option<Vec<Key>> {
        let mut pinned: Vec<Option<&[Key]>> = vec![None; self.instances.len()];
        for (instance, keys) in &self.pins {
            if pinned[*instance].is_none_or(|known| known.len() > keys.len()) {
                pinned[*instance] = Some(keys);
            }
        }
        let all: Vec<Key> = pinned
            .iter()
            .flatten()
            .flat_map(|keys| keys.iter().cloned())
            .collect();
        let pinned = pinned.iter().map(Option::is_some).collect();
        self.reach_all(pinned).then_some(all)
    }

    /// Whether all instances are pinned to the keys that these are pinned to, whatever those are.
    pub(super) fn bind_all(&self, instances: &[usize]) -> bool {
        self.reach_all(
            (0..self.instances.len())
                .map(|at| instances.contains(&at))
                .collect(),
        )
    }

    /// How many instances are pinned to the keys that these are pinned to.
    pub(super) fn count_bound(&self, instances: &[usize]) -> usize {
        let mut bound = vec![false; self.instances.len()];
        for from in instances {
            for (known, reached) in bound.iter_mut().zip(self.reached_from(*from)) {
                *known |= reached;
            }
        }
        bound.into_iter().filter(|bound| *bound).count()
    }

    /// Whether all instances are pinned, if these are.
    fn reach_all(&self, mut reached: Vec<bool>) -> bool {
        let mut moved = true;
        while moved {
            moved = false;
            for (from, to) in &self.edges {
                if reached[*from] && !reached[*to] {
                    reached[*to] = true;
                    moved = true;
                }
            }
        }
        reached.iter().all(|reached| *reached)
    }

    /// The keys that pin one instance.
    pub(super) fn keys_of(&self, instance: usize) -> Option<Vec<Key>> {
        let pins = self
            .pins
            .iter()
            .filter(|(from, _)| self.reached_from(*from)[instance]);
        let fewest = pins.min_by_key(|(_, keys)| keys.len());
        fewest.map(|(_, keys)| keys.clone())
    }

    /// Of which instances no other rows matter than those with the keys that this one's have.
    pub(super) fn reached_from(&self, instance: usize) -> Vec<bool> {
        let mut reached = vec![false; self.instances.len()];
        let mut left = vec![instance];
        while let Some(at) = left.pop() {
            if !std::mem::replace(&mut reached[at], true) {
                left.extend(
                    self.edges
                        .iter()
                        .filter(|(from, _)| *from == at)
                        .map(|(_, to)| *to),
                );
            }
        }
        reached
    }

    /// The first instance that nothing pins.
    pub(super) fn unpinned(&self) -> Option<&Instance<'a>> {
        let pinned = |at: usize| {
            self.pins.iter().any(|(to, _)| *to == at) || self.edges.iter().any(|(_, to)| *to == at)
        };
        (0..self.instances.len())
            .find(|at| !pinned(*at))
            .or(Some(0))
            .and_then(|at| self.instances.get(at))
    }

    pub(super) fn pin(&mut self, instance: usize, keys: Vec<Key>) {
        self.pins.push((instance, keys));
    }

    /// Walks a query and everything in it.
    ///
    /// Gives its FROM, where it is one SELECT.
    pub(super) fn query(&mut self, query: &Query, outer: &Scope<'_>) -> Result<Block<'a>, Refusal> {
        self.queries += 1;
        refuse_foreign_query(query)?;
        let outside = self.ctes.len();
        if let Some(with) = &query.with {
            self.with(with)?;
        }
        self.writes |= !query.locks.is_empty();
        for lock in &query.locks {
            let named = lock.of.as_ref().and_then(parts).and_then(|mut parts| parts.pop());
            self.locked.push(named);
        }
        let block = self.body(&query.body, outer)?;
        let scope = scope_of(&block, outer);
        self.expressions(&query.order_by, &scope)?;
        self.expressions(&query.limit_clause, &scope)?;
        self.expressions(&query.fetch, &scope)?;
        self.ctes.truncate(outside);
        Ok(block)
    }

    fn with(&mut self, with: &With) -> Result<(), Refusal> {
        if with.recursive {
            self.ctes
                .extend(with.cte_tables.iter().map(|cte| cte.alias.name.value.clone()));
        }
        for cte in &with.cte_tables {
            // Nothing outside is visible here: an equality with an outer table pins nothing.
            self.query(&cte.query, &[])?;
            if cte.from.is_some() || misread_table(&cte.alias.name) {
                return Err(not_understood("WITH"));
            }
            if !with.recursive {
                self.ctes.push(cte.alias.name.value.clone());
            }
        }
        Ok(())
    }

    fn body(&mut self, body: &SetExpr, outer: &Scope<'_>) -> Result<Block<'a>, Refusal> {
        match body {
            SetExpr::Select(select) => return self.select(select, outer),
            SetExpr::Query(query) => {
                self.query(query, outer)?;
            }
            SetExpr::SetOperation { left, right, .. } => {
                self.body(left, outer)?;
                self.body(right, outer)?;
            }
            SetExpr::Values(values) => self.expressions(values, outer)?,
            SetExpr::Insert(statement)
            | SetExpr::Update(statement)
            | SetExpr::Delete(statement)
            | SetExpr::Merge(statement) => self.write(statement)?,
            SetExpr::Table(_) => {
                return Err(Refusal::unsupported("TABLE is not supported").hint("Write SELECT * FROM."));
            }
        }
        Ok(Block::default())
    }

    fn select(&mut self, select: &Select, outer: &Scope<'_>) -> Result<Block<'a>, Refusal> {
        refuse_foreign_select(select)?;
        let block = self.from(&select.from)?;
        let scope = scope_of(&block, outer);
        self.joins(&select.from, &scope)?;
        self.expressions(&select.distinct, &scope)?;
        self.expressions(&select.projection, &scope)?;
        self.expressions(&select.group_by, &scope)?;
        self.expressions(&select.having, &scope)?;
        self.expressions(&select.named_window, &scope)?;
        self.selection(select.selection.as_ref(), &scope)?;
        Ok(block)
    }

    /// A WHERE: its subqueries, and what it pins.
    pub(super) fn selection(&mut self, selection: Option<&Expr>, scope: &Scope<'_>) -> Result<(), Refusal> {
        if let Some(condition) = selection {
            self.expressions(condition, scope)?;
            self.condition(condition, scope, Pins::Block);
        }
        Ok(())
    }

    /// Reads FROM items into a block, and walks the subqueries that are items.
    pub(super) fn from(&mut self, from: &[TableWithJoins]) -> Result<Block<'a>, Refusal> {
        let mut block = Block::default();
        for tree in from {
            self.tree(tree, &mut block)?;
        }
        Ok(block)
    }

    fn tree(&mut self, tree: &TableWithJoins, block: &mut Block<'a>) -> Result<(), Refusal> {
        self.factor(&tree.relation, block)?;
        for join in &tree.joins {
            self.factor(&join.relation, block)?;
            let kind = JoinKind::of(join)?;
            let merging = matches!(kind, JoinKind::Right | JoinKind::Full) && uses_names(join);
            block.merges |= merging || matches!(constraint(join), Some(JoinConstraint::Natural));
        }
        Ok(())
    }

    pub(super) fn factor(&mut self, factor: &TableFactor, block: &mut Block<'a>) -> Result<(), Refusal> {
        match factor {
            TableFactor::Table {
                name,
                alias,
                args: None,
                with_hints,
                version: None,
                with_ordinality: false,
                partitions,
                json_path: None,
                sample,
                index_hints,
            } if with_hints.is_empty() && partitions.is_empty() && index_hints.is_empty() => {
                if sample.is_some() {
                    return Err(Refusal::unsupported("TABLESAMPLE is not supported"));
                }
                self.table(name, alias.as_ref(), block)
            }
            TableFactor::Table {
                name,
                alias,
                args: Some(_),
                ..
            } => {
                self.relations += 1;
                block.items.push(unknown_item(
                    alias.as_ref(),
                    parts(name).and_then(|parts| parts.last().cloned()),
                )?);
                // Its arguments may hold subqueries; what they see of this FROM is not followed.
                self.expressions_of_factor(factor)
            }
            TableFactor::Function { alias, name, .. } => {
                block.items.push(unknown_item(
                    alias.as_ref(),
                    parts(name).and_then(|parts| parts.last().cloned()),
                )?);
                self.expressions_of_factor(factor)
            }
            TableFactor::UNNEST { alias, .. } => {
                block
                    .items
                    .push(unknown_item(alias.as_ref(), Some("unnest".to_owned()))?);
                self.expressions_of_factor(factor)
            }
            TableFactor::Derived {
                lateral,
                subquery,
                alias,
                sample: None,
            } => {
                let inner = self.query(subquery, &[])?;
                let mut item = unknown_item(alias.as_ref(), None)?;
                if !lateral && alias.as_ref().is_none_or(|alias| alias.columns.is_empty()) {
                    item.keys = subquery::keys(subquery, &inner, &self.instances);
                }
                block.items.push(item);
                Ok(())
            }
            TableFactor::NestedJoin {
                table_with_joins,
                alias: None,
            } => {
                if table_with_joins
                    .joins
                    .iter()
                    .any(|join| !matches!(JoinKind::of(join), Ok(JoinKind::Inner)))
                {
                    block.merges = true;
                }
                self.tree(table_with_joins, block)
            }
            _ => Err(not_understood("FROM")),
        }
    }

    /// Walks subqueries in the arguments of a function in FROM.
    fn expressions_of_factor(&mut self, factor: &TableFactor) -> Result<(), Refusal> {
        self.expressions(factor, &[])
    }

    fn table(
        &mut self,
        name: &ObjectName,
        alias: Option<&TableAlias>,
        block: &mut Block<'a>,
    ) -> Result<(), Refusal> {
        self.relations += 1;
        let parts = relation_parts(name).ok_or_else(|| not_understood("FROM"))?;
        let bare = parts.last().cloned().unwrap_or_default();
        if parts.len() == 1 && self.ctes.contains(&bare) {
            block.items.push(unknown_item(alias, Some(bare))?);
            return Ok(());
        }
        let (mut schema, mut table) = (None, None);
        let instance = match self.names.find(&parts)? {
            Named::Table(relation) => {
                schema = alias.is_none().then(|| relation.schema.clone());
                table = Some(relation).filter(|_| alias.is_none_or(|alias| alias.columns.is_empty()));
                self.instance(relation, name, alias)?
            }
            Named::View(_, definition) => {
                let at = tokens_of(name).ok_or_else(|| not_understood("FROM"))?;
                let name = alias.is_none().then(|| bare.clone());
                self.views.push(View { at, definition, name });
                None
            }
            Named::Temporary => {
                self.temporary = true;
                None
            }
            Named::System => {
                self.system = true;
                None
            }
            Named::Unknown => {
                self.unknown.get_or_insert(parts.join("."));
                None
            }
        };
        let item = unknown_item(alias, Some(bare))?;
        block.items.push(Item {
            schema,
            instance,
            table,
            ..item
        });
        Ok(())
    }

    /// Counts a use of a table; of a reference table, which every group has, there is nothing to prove.
    fn instance(
        &mut self,
        table: &'a Relation,
        name: &ObjectName,
        alias: Option<&TableAlias>,
    ) -> Result<Option<usize>, Refusal> {
        let renamed = alias.is_some_and(|alias| !alias.columns.is_empty());
        let (key, key_name) = match (&table.placement, table.key_column()) {
            (Some(Placement::Reference), _) => {
                self.references = true;
                self.reference_tables.push(table);
                if let Some((at, _)) = tokens_of(name).filter(|_| !renamed) {
                    self.references_at.push((at, table));
                }
                return Ok(None);
            }
            (Some(Placement::Local), _) => {
                let local = Key::local();
                let column = local.column;
                self.pin(self.instances.len(), vec![local]);
                (column, None)
            }
            (Some(Placement::Hash(key)), Some(column)) => (key.column, Some(column.name.as_str())),
            _ => {
                return Err(Refusal::new(
                    "XX000",
                    format!("table \"{}\" has no shard key column", table.name),
                ));
            }
        };
        self.instances.push(Instance {
            table,
            key_name: key_name.filter(|_| !renamed),
            key,
            renamed,
            at: tokens_of(name),
            alias_at: alias.and_then(|alias| parse::token_of(&alias.name)),
            called: alias.map_or_else(|| table.name.clone(), |alias| alias.name.value.clone()),
        });
        Ok(Some(self.instances.len() - 1))
    }

    /// The table that a statement writes to, as an instance and an item of the block.
    pub(super) fn target(
        &mut self,
        name: &ObjectName,
        alias: Option<&TableAlias>,
        block: &mut Block<'a>,
    ) -> Result<Option<usize>, Refusal> {
        self.writes = true;
        let parts = relation_parts(name).ok_or_else(|| not_understood("the table's name"))?;
        match self.names.find(&parts)? {
            Named::System => {
                return Err(
                    Refusal::unsupported(format!("\"{}\" cannot be written to", parts.join(".")))
                        .detail("It would change in one group only."),
                );
            }
            Named::Table(relation) if relation.placement == Some(Placement::Reference) => {
                if self
                    .copies
                    .replace(relation)
                    .is_some_and(|other| other.oid != relation.oid)
                {
                    return Err(Refusal::unsupported(
                        "writing to two reference tables in one statement is not supported",
                    )
                    .hint("Use two statements in one transaction."));
                }
            }
            Named::View(..) => {
                return Err(Refusal::unsupported(format!(
                    "writing to the view \"{}\" is not supported",
                    parts.join(".")
                ))
                .hint("Write to the view's table."));
            }
            Named::Table(_) => self.writes_rows = true,
            Named::Temporary | Named::Unknown => {}
        }
        // A CTE of the same name is no target: PostgreSQL takes the table.
        let ctes = std::mem::take(&mut self.ctes);
        let added = self.table(name, alias, block);
        self.ctes = ctes;
        added?;
        Ok(block.items.last().and_then(|item| item.instance))
    }

    /// Walks the subqueries that stand in expressions.
    pub(super) fn expressions<V: Visit>(&mut self, node: &V, scope: &Scope<'_>) -> Result<(), Refusal> {
        struct Subqueries<'p, 'a, 's> {
            proof: &'p mut Proof<'a>,
            scope: &'s Scope<'s>,
            depth: usize,
        }
        impl Visitor for Subqueries<'_, '_, '_> {
            type Break = Refusal;
            fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Refusal> {
                self.depth += 1;
                if self.depth > 1 {
                    return ControlFlow::Continue(());
                }
                match self.proof.query(query, self.scope) {
                    Ok(block) => {
                        let key = subquery::only_key(query, &block, &self.proof.instances);
                        let listed = key.map(|key| (std::ptr::from_ref(query), key));
                        self.proof.listed.extend(listed);
                        ControlFlow::Continue(())
                    }
                    Err(refusal) => ControlFlow::Break(refusal),
                }
            }
            fn post_visit_query(&mut self, _: &Query) -> ControlFlow<Refusal> {
                self.depth -= 1;
                ControlFlow::Continue(())
            }
        }
        let mut walk = Subqueries {
            proof: self,
            scope,
            depth: 0,
        };
        match node.visit(&mut walk) {
            ControlFlow::Break(refusal) => Err(refusal),
            ControlFlow::Continue(()) => Ok(()),
        }
    }

    fn write(&mut self, statement: &Statement) -> Result<(), Refusal> {
        super::writes::walk(self, statement)
    }
}

/// The first and the last token of a relation's name.
fn tokens_of(name: &ObjectName) -> Option<(usize, usize)> {
    let at = |part: Option<&ObjectNamePart>| match part? {
        ObjectNamePart::Identifier(ident) => parse::token_of(ident),
        ObjectNamePart::Function(_) => None,
    };
    Some((at(name.0.first())?, at(name.0.last())?))
}

/// The block and those around it, for expressions in it.
pub(super) fn scope_of<'s>(block: &'s Block<'s>, outer: &Scope<'s>) -> Vec<&'s Block<'s>> {
    std::iter::once(block).chain(outer.iter().copied()).collect()
}

fn unknown_item<'a>(alias: Option<&TableAlias>, name: Option<String>) -> Result<Item<'a>, Refusal> {
    if alias.is_some_and(|alias| misread_table(&alias.name) || alias.at.is_some()) {
        return Err(not_understood("FROM"));
    }
    let name = alias
        .map(|alias| alias.name.value.clone())
        .or(name)
        .unwrap_or_default();
    Ok(Item {
        name,
        schema: None,
        instance: None,
        table: None,
        keys: Vec::new(),
    })
}

pub(super) fn not_understood(what: &str) -> Refusal {
    Refusal::unsupported(format!("Howdah cannot analyse this form of {what}"))
}

/// Parts of a tree that PostgreSQL's grammar does not have: the parser read another dialect.
fn refuse_foreign_query(query: &Query) -> Result<(), Refusal> {
    let foreign = query.for_clause.is_some()
        || query.settings.is_some()
        || query.format_clause.is_some()
        || !query.pipe_operators.is_empty();
    if foreign {
        Err(not_understood("SELECT"))
    } else {
        Ok(())
    }
}

fn refuse_foreign_select(select: &Select) -> Result<(), Refusal> {
    if select.into.is_some() {
        return Err(Refusal::unsupported("SELECT INTO is not supported")
            .hint("Create the table with CREATE TABLE and fill it with INSERT ... VALUES or COPY."));
    }
    let foreign = !select.optimizer_hints.is_empty()
        || select.select_modifiers.is_some()
        || select.top.is_some()
        || select.exclude.is_some()
        || !select.lateral_views.is_empty()
        || select.prewhere.is_some()
        || !select.connect_by.is_empty()
        || !select.cluster_by.is_empty()
        || !select.distribute_by.is_empty()
        || !select.sort_by.is_empty()
        || select.qualify.is_some()
        || select.value_table_mode.is_some()
        || select.flavor != SelectFlavor::Standard;
    if foreign {
        Err(not_understood("SELECT"))
    } else {
        Ok(())
    }
}
