//! Findings and leases as JSON.

use std::fmt::Write as _;

use super::finding::{Finding, LeaseFacts, OwnerFacts};

/// Milliseconds with up to six digits after the point, none of them a zero at the end.
struct Millis(u64);

impl std::fmt::Display for Millis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0 / 1_000_000)?;
        match self.0 % 1_000_000 {
            0 => Ok(()),
            part => f.write_str(format!(".{part:06}").trim_end_matches('0')),
        }
    }
}

/// One object, written from its first key to its last.
struct Object(String);

impl Object {
    fn new() -> Self {
        Self("{".to_owned())
    }

    fn key(&mut self, key: &str) -> &mut String {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        text(&mut self.0, key);
        self.0.push(':');
        &mut self.0
    }

    fn raw(&mut self, key: &str, value: impl std::fmt::Display) {
        // Writing to a String does not fail.
        let _ = write!(self.key(key), "{value}");
    }

    /// `null` where it is not known.
    fn known(&mut self, key: &str, value: Option<impl std::fmt::Display>) {
        match value {
            Some(value) => self.raw(key, value),
            None => self.raw(key, "null"),
        }
    }

    /// `null` where it is empty.
    fn text(&mut self, key: &str, value: &str) {
        if value.is_empty() {
            self.raw(key, "null");
        } else {
            text(self.key(key), value);
        }
    }

    fn owner(&mut self, key: &str, owner: Option<&OwnerFacts>) {
        self.known(key, owner.map(owner_json));
    }

    fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// Escapes also what is valid in JSON but ends a line for some readers, such as U+2028.
fn text(out: &mut String, value: &str) {
    out.push('"');
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // All of them are below U+10000, so that four digits are enough.
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

fn owner_json(owner: &OwnerFacts) -> String {
    let mut object = Object::new();
    object.text("kind", owner.kind.name());
    object.text("name", &owner.name);
    object.text("id", &owner.id);
    object.raw("number", owner.number);
    object.text("phase", owner.phase.name());
    object.raw("age_ms", Millis(owner.age_ns));
    object.end()
}

fn positive<T: PartialEq + Default>(value: T) -> Option<T> {
    Some(value).filter(|value| *value != T::default())
}

impl Finding {
    /// It as one object on one line, always with the same keys; `null` is what is not known.
    ///
    /// Times are milliseconds with a fraction; `at_ms` is of the monotonic clock. `number` is
    /// the code's.
    pub fn json(&self) -> String {
        let lease = self.lease.as_ref();
        let text = |of: fn(&LeaseFacts) -> &str| lease.map_or("", of);
        let mut object = Object::new();
        object.text("code", self.code.name());
        object.raw("code_number", self.code.code());
        object.text("severity", self.severity.name());
        object.raw("exact", self.code.is_exact());
        object.known("age_ms", positive(self.age_ns).map(Millis));
        object.raw("at_ms", Millis(self.at_ns));
        object.text("pool", text(|lease| &lease.pool));
        object.known("lease", lease.map(|lease| lease.number));
        object.known("backend_pid", lease.and_then(|lease| positive(lease.backend_pid)));
        object.owner("owner", lease.and_then(|lease| lease.owner.as_ref()));
        object.owner("by", self.by.as_ref());
        object.text("opened", text(|lease| &lease.opened));
        object.text("last", self.last());
        object.text("statement", text(|lease| &lease.statement));
        object.text("state", text(|lease| lease.state.name()));
        object.known("statements", lease.map(|lease| lease.statements));
        object.known("write_age_ms", lease.and_then(|lease| lease.write_age_ns).map(Millis));
        object.known("thread", lease.and_then(|lease| positive(lease.thread)));
        object.known("task", lease.and_then(|lease| positive(lease.task)));
        object.text("detail", &self.detail);
        object.text("hint", self.hint());
        object.end()
    }
}

impl LeaseFacts {
    /// It as one object on one line; keys, times and `null` as in [`Finding::json`].
    pub fn json(&self) -> String {
        let mut object = Object::new();
        object.raw("lease", self.number);
        object.text("pool", &self.pool);
        object.known("backend_pid", positive(self.backend_pid));
        object.text("state", self.state.name());
        object.raw("age_ms", Millis(self.age_ns));
        object.raw("state_age_ms", Millis(self.state_age_ns));
        object.known("write_age_ms", self.write_age_ns.map(Millis));
        object.owner("owner", self.owner.as_ref());
        object.text("opened", &self.opened);
        object.text("last", &self.last);
        object.text("statement", &self.statement);
        object.raw("statements", self.statements);
        object.known("thread", positive(self.thread));
        object.known("task", positive(self.task));
        object.end()
    }
}
