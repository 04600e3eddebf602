//! SHOW HELP.

use super::show::Subject;

/// What there is, as PgBouncer lists it.
pub(super) fn text() -> String {
    let subjects: Vec<String> = Subject::ALL.iter().map(|(name, _)| name.to_uppercase()).collect();
    format!(
        "Console usage\n\
         \tSHOW HELP|{}\n\
         \tPAUSE [<db>]\n\
         \tRESUME [<db>]\n\
         \tRECONNECT [<db>]\n\
         \tKILL <db>\n\
         \tRELOAD",
        subjects.join("|")
    )
}
