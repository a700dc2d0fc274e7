//! What the text of a statement tells without a parser.

/// Words that begin a statement which may take locks of a write.
const WRITES: [&str; 13] = [
    "insert", "update", "delete", "replace", "merge", "lock", "alter", "truncate", "create",
    "drop", "call", "copy", "do",
];

/// Whether a statement may take locks of a write: by its first word, and a SELECT by its last clause.
pub fn may_write(statement: &str) -> bool {
    let text = statement.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '(');
    let text =
        if text.starts_with("--") || text.starts_with("/*") { after_comments(text) } else { text };
    let end = text.bytes().position(|byte| !byte.is_ascii_alphabetic()).unwrap_or(text.len());
    let word = text.get(..end).unwrap_or_default();
    if word.eq_ignore_ascii_case("select") {
        return locks(text);
    }
    if word.eq_ignore_ascii_case("with") {
        let lower = text.to_ascii_lowercase();
        return locks(text)
            || ["insert into", "update ", "delete from", "merge into"]
                .iter()
                .any(|word| lower.contains(word));
    }
    WRITES.iter().any(|known| word.eq_ignore_ascii_case(known))
}

/// Characters of a statement that are kept.
const LONGEST: usize = 300;

/// A statement with `?` in the place of its texts and numbers, in one line, cut after 300 characters.
pub fn without_literals(statement: &str) -> String {
    let mut kept = String::new();
    let mut rest = statement.chars().peekable();
    let mut before = ' ';
    let mut count = 0;
    while let Some(next) = rest.next() {
        if count == LONGEST {
            kept.push('…');
            break;
        }
        let is_word = before.is_alphanumeric() || matches!(before, '_' | '$' | ':' | '@');
        let put = match next {
            '\'' => {
                // A doubled quote is one of the text; a text that has no end goes on to the end.
                while let Some(inner) = rest.next() {
                    if inner == '\'' && rest.next_if_eq(&'\'').is_none() {
                        break;
                    }
                }
                '?'
            }
            '0'..='9' if !is_word => {
                while rest.next_if(|next| next.is_ascii_alphanumeric() || *next == '.').is_some() {}
                '?'
            }
            _ if next.is_whitespace() => ' ',
            _ => next,
        };
        if !(put == ' ' && before == ' ') {
            kept.push(put);
            count += 1;
        }
        before = put;
    }
    kept.truncate(kept.trim_end().len());
    kept
}

/// Whether a query ends in a clause that locks rows.
fn locks(query: &str) -> bool {
    let from = query.len().saturating_sub(64);
    let tail = query.as_bytes().get(from..).unwrap_or_default();
    [&b"for update"[..], b"for share", b"for no key", b"for key share", b"lock in share"]
        .iter()
        .any(|clause| tail.windows(clause.len()).any(|part| part.eq_ignore_ascii_case(clause)))
}

fn after_comments(mut text: &str) -> &str {
    loop {
        text = text.trim_start();
        let rest = if text.starts_with("--") {
            text.split_once('\n').map(|(_, rest)| rest)
        } else if text.starts_with("/*") {
            text.split_once("*/").map(|(_, rest)| rest)
        } else {
            return text;
        };
        let Some(rest) = rest else { return "" };
        text = rest;
    }
}
