//! The form of `pg_hba.conf`: lines, fields, lists, quotes, comments (`tokenize_auth_file` and `next_token` in hba.c).

/// A word of a field. In quotes it is a name, whatever it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) text: String,
    pub(super) quoted: bool,
}

impl Word {
    /// Whether it is this keyword.
    pub(super) fn is(&self, keyword: &str) -> bool {
        !self.quoted && self.text == keyword
    }
}

/// A line that says something: where it begins, counted from 1, and its fields, each a list of words.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) number: usize,
    pub(super) fields: Vec<Vec<Word>>,
}

/// All lines that are more than blank or comment; an error is told with its line.
pub(super) fn lines(text: &str) -> Result<Vec<Line>, (usize, String)> {
    let mut found = Vec::new();
    let mut physical = text.lines().zip(1..);
    while let Some((first, number)) = physical.next() {
        let mut whole = first.to_owned();
        // A backslash at the end of a line continues it, also within quotes and comments.
        while whole.ends_with('\\') {
            whole.pop();
            let Some((next, _)) = physical.next() else { break };
            whole.push_str(next);
        }
        let fields = fields(&whole).map_err(|what| (number, what))?;
        if !fields.is_empty() {
            found.push(Line { number, fields });
        }
    }
    Ok(found)
}

fn fields(line: &str) -> Result<Vec<Vec<Word>>, String> {
    let mut rest = line;
    let mut fields = Vec::new();
    loop {
        let mut field = Vec::new();
        // After a comma the list goes on, whatever space is between.
        loop {
            let Some((word, after, comma)) = word(rest)? else {
                rest = "";
                break;
            };
            field.push(word);
            rest = after;
            if !comma {
                break;
            }
        }
        if field.is_empty() {
            return Ok(fields);
        }
        fields.push(field);
    }
}

/// The next word, what follows it, and whether a comma ended it.
fn word(line: &str) -> Result<Option<(Word, &str, bool)>, String> {
    let start = line.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == ',');
    if start.is_empty() || start.starts_with('#') {
        return Ok(None);
    }
    let quoted = start.starts_with('"');
    let (mut text, mut inside) = (String::new(), false);
    let mut letters = start.char_indices().peekable();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' if inside && letters.peek().is_some_and(|(_, next)| *next == '"') => {
                letters.next();
                text.push('"');
            }
            '"' => inside = !inside,
            _ if inside => text.push(letter),
            ',' => return Ok(Some((Word { text, quoted }, &start[at + 1..], true))),
            '#' => return Ok(Some((Word { text, quoted }, "", false))),
            space if space.is_ascii_whitespace() => {
                return Ok(Some((Word { text, quoted }, &start[at..], false)));
            }
            _ => text.push(letter),
        }
    }
    if inside {
        return Err("a quoted name has no end".to_owned());
    }
    Ok(Some((Word { text, quoted }, "", false)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Vec<(usize, Vec<Vec<String>>)> {
        let lines = lines(text).expect("good");
        let words = |field: Vec<Word>| field.into_iter().map(|word| word.text).collect();
        let fields = |line: Line| (line.number, line.fields.into_iter().map(words).collect());
        lines.into_iter().map(fields).collect()
    }

    #[test]
    fn lines_fields_and_lists_are_told_apart() {
        let text = "# nothing\n\n  host a,b, \"c d\"\tall # rest\nlocal \\\n all\n\"say \"\"hi\"\"\" x#y\n";
        let strings = |fields: &[&[&str]]| {
            let field = |field: &&[&str]| field.iter().map(|word| (*word).to_owned()).collect();
            fields.iter().map(field).collect::<Vec<Vec<String>>>()
        };
        let expected = vec![
            (3, strings(&[&["host"], &["a", "b", "c d"], &["all"]])),
            (4, strings(&[&["local"], &["all"]])),
            (6, strings(&[&["say \"hi\""], &["x"]])),
        ];
        assert_eq!(plain(text), expected);
    }

    #[test]
    fn quotes_take_the_meaning_from_a_keyword() {
        let lines = lines("all \"all\"").expect("good");
        assert!(lines[0].fields[0][0].is("all"));
        assert!(!lines[0].fields[1][0].is("all"));
    }

    #[test]
    fn a_quote_without_an_end_is_told_with_its_line() {
        assert_eq!(lines("a\n\"b"), Err((2, "a quoted name has no end".to_owned())));
    }
}
