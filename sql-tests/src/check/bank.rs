//! Accounts with transfers between them: whoever reads them all finds the same total.

use std::collections::BTreeMap;

use super::pairs::{self, Operation};
use super::{Anomaly, Name, Options, Verdict, words};
use crate::Result;
use crate::history::{Edn, History};

pub(super) fn check(history: &History, options: &Options) -> Result<Verdict> {
    let operations = pairs::operations(history)?;
    let mut anomalies = Vec::new();
    let mut unknown = Vec::new();
    let mut first: Option<(i64, BTreeMap<&Edn, i64>)> = None;
    let mut reads = 0;
    for operation in operations.iter().filter(|op| op.f() == "read" && op.is_ok()) {
        reads += 1;
        let balances = balances(operation)?;
        let total = balances.values().sum();
        let (expected, accounts) =
            first.get_or_insert_with(|| (options.total.unwrap_or(total), balances.clone()));
        let mut found = |name, what: String| {
            let words = format!("{} {what}.", words::operation(operation));
            anomalies.push(Anomaly::new(name, vec![operation.index()], words));
        };
        if !accounts.keys().eq(balances.keys()) {
            found(
                Name::UnexpectedKey,
                "has other accounts than the first read".to_owned(),
            );
        } else if total != *expected {
            found(
                Name::WrongTotal,
                format!("has {total} in total and not {expected}"),
            );
        }
        if let Some((account, balance)) = balances.iter().find(|(_, balance)| **balance < 0)
            && !options.negative_balances
        {
            found(Name::NegativeValue, format!("has {balance} on account {account}"));
        }
    }
    if reads == 0 {
        unknown.push("Nobody read the accounts.".to_owned());
    }
    let mut verdict = Verdict::of(anomalies, unknown);
    verdict.counts = pairs::counts(&operations);
    verdict.counts.insert("reads", reads);
    Ok(verdict)
}

fn balances<'a>(operation: &Operation<'a>) -> Result<BTreeMap<&'a Edn, i64>> {
    let malformed = || format!("not balances of accounts: {}", operation.invocation);
    let Edn::Map(accounts) = operation.value() else {
        return Err(malformed().into());
    };
    let balances = accounts
        .iter()
        .map(|(account, balance)| Some((account, balance.int()?)));
    Ok(balances.collect::<Option<_>>().ok_or_else(malformed)?)
}
