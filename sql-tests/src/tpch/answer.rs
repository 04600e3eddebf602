//! What a server answers to a query, and what Howdah says on how it does.

use std::fmt;

use tokio_postgres::{Client, SimpleQueryMessage};

use crate::Result;

/// Where a query is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// In the groups, or in one of them, whole.
    Pushed,
    /// Groups compute parts, and these are put together.
    Merged,
    /// One PostgreSQL computes it from rows that are gathered.
    Gathered,
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Path::Pushed => "pushed",
            Path::Merged => "merged",
            Path::Gathered => "gathered",
        })
    }
}

/// By the words of EXPLAIN (HOWDAH): `proxy/src/analysis/explain.rs`.
pub(super) async fn path(howdah: &Client, sql: &str) -> Result<Path> {
    let explained = answer(howdah, &format!("EXPLAIN (HOWDAH) {sql}")).await?;
    let lines: Vec<&str> = explained
        .rows
        .iter()
        .filter_map(|row| row.first()?.as_deref())
        .collect();
    let text = lines.join("\n");
    let each = lines.iter().find(|line| line.starts_with("Each group"));
    Ok(match each {
        None if text.starts_with("Groups: ") => Path::Pushed,
        Some(each) if each.ends_with(": reads") => Path::Gathered,
        Some(each) if each.contains("aggregates") || each.contains("summed up") => Path::Merged,
        Some(each) if each.contains("the statement") => match text.contains("\nThe node: puts ") {
            true => Path::Merged,
            false => Path::Pushed,
        },
        _ => return Err(format!("EXPLAIN (HOWDAH) says what this program does not know:\n{text}").into()),
    })
}

/// The rows, in PostgreSQL's text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    columns: Vec<String>,
    rows: Vec<Vec<Option<String>>>,
}

pub(super) async fn answer(client: &Client, sql: &str) -> Result<Answer> {
    let mut answer = Answer::default();
    for message in client.simple_query(sql).await? {
        match message {
            SimpleQueryMessage::RowDescription(columns) => {
                answer.columns = columns.iter().map(|column| column.name().to_owned()).collect();
            }
            SimpleQueryMessage::Row(row) => {
                let value = |place| row.get(place).map(str::to_owned);
                answer.rows.push((0..row.len()).map(value).collect());
            }
            _ => {}
        }
    }
    Ok(answer)
}

impl Answer {
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// In what they differ. Rows that are equal in the columns that they are ordered by, counted from 1, may come in any order.
    pub(super) fn difference(&self, other: &Answer, order: &[usize]) -> Option<String> {
        if self.columns != other.columns {
            return Some(format!("columns {:?} and {:?}", self.columns, other.columns));
        }
        if self.len() != other.len() {
            return Some(format!("{} rows and {}", self.len(), other.len()));
        }
        let keys = |answer: &Answer| -> Vec<Vec<Option<String>>> {
            let key =
                |row: &Vec<Option<String>>| order.iter().map(|column| row[column - 1].clone()).collect();
            answer.rows.iter().map(key).collect()
        };
        let sorted = |answer: &Answer| {
            let mut rows = answer.rows.clone();
            rows.sort();
            rows
        };
        let differ = |one: Vec<Vec<Option<String>>>, two: Vec<Vec<Option<String>>>, what: &str| {
            let pair = one.iter().zip(&two).find(|(one, two)| one != two)?;
            Some(format!("{what} {:?} and {:?}", pair.0, pair.1))
        };
        differ(sorted(self), sorted(other), "row").or_else(|| differ(keys(self), keys(other), "in the order"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer_of(rows: &[[&str; 2]]) -> Answer {
        Answer {
            columns: vec!["a".to_owned(), "b".to_owned()],
            rows: rows
                .iter()
                .map(|row| row.map(|value| Some(value.to_owned())).to_vec())
                .collect(),
        }
    }

    #[test]
    fn order_counts_by_the_columns_that_are_ordered_by() {
        let one = answer_of(&[["1", "x"], ["2", "y"], ["2", "z"]]);
        let ties = answer_of(&[["1", "x"], ["2", "z"], ["2", "y"]]);
        let wrong = answer_of(&[["2", "y"], ["1", "x"], ["2", "z"]]);
        assert_eq!(one.difference(&ties, &[1]), None);
        assert!(one.difference(&ties, &[1, 2]).is_some());
        assert!(one.difference(&wrong, &[1]).is_some());
        assert_eq!(one.difference(&wrong, &[]), None);
        let other = answer_of(&[["1", "x"], ["2", "y"], ["2", "z "]]);
        assert!(one.difference(&other, &[1]).is_some());
        assert!(one.difference(&answer_of(&[["1", "x"]]), &[1]).is_some());
    }
}
