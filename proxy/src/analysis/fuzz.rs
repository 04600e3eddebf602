//! Query strings of any content.

use super::example::catalogue;
use super::{Answers, Facts, Plan, Temporaries, analyse, split};

/// A query string: cut into statements, each analysed, and sent on its way where that needs no parameters.
pub fn statement(bytes: &[u8]) {
    thread_local! {
        static CATALOGUE: coordinator::catalogue::Catalogue = catalogue();
    }
    // A session refuses what is not UTF-8 before it comes here.
    let Ok(sql) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(statements) = split(sql) else { return };
    let mut end = 0;
    for range in statements {
        assert!(
            end <= range.start && range.start < range.end,
            "statements overlap: {range:?}"
        );
        end = range.end;
        let one = sql.get(range).expect("a statement ends between characters");
        let whole = std::ops::Range {
            start: 0,
            end: one.len(),
        };
        let parts = split(one).unwrap_or_default();
        assert!(
            parts.as_slice() == [whole],
            "a part of it has other parts: {one:?}"
        );
        CATALOGUE.with(|catalogue| {
            let temporaries = Temporaries::new("pg_temp_3", ["tmp".to_owned()]);
            let facts = Facts {
                search_path: &["public"],
                temporaries: &temporaries,
            };
            let plan = analyse(one, &facts, catalogue);
            if let Ok(Plan::Query(query)) = &plan {
                // Where a parameter is missing it is an error, not a panic.
                let _route = query.route(&[], catalogue.slots(), &Answers::default());
            }
            let again = analyse(one, &facts, catalogue);
            assert_eq!(
                format!("{plan:?}"),
                format!("{again:?}"),
                "two plans for one statement"
            );
        });
    }
}
