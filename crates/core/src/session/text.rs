//! Findings and leases as text for people.

use std::cmp::Reverse;
use std::fmt::Write as _;

use super::finding::{Finding, FindingCode, LeaseFacts, OwnerFacts};
use super::state::Phase;

// With all of these at their limit the line of a finding has less than 1,500 characters.
const NAME_LIMIT: usize = 100;
const ID_LIMIT: usize = 64;
const POOL_LIMIT: usize = 64;
const SITE_LIMIT: usize = 120;
const STATEMENT_LIMIT: usize = 120;
const DETAIL_LIMIT: usize = 400;

const OWNER_WIDTH: usize = 40;
const SITE_WIDTH: usize = 44;
const STATEMENT_WIDTH: usize = 60;

/// Whether a terminal or a log takes it for something else than a character to show: controls,
/// ends of lines, and marks that turn the direction of what follows.
fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// The escapes of as many characters as have room in `limit`, and whether those are all.
fn fit(chars: impl Iterator<Item = char>, limit: usize) -> (Vec<String>, bool) {
    let mut left = limit;
    let mut taken = Vec::new();
    for c in chars {
        let shown = if is_unprintable(c) { c.escape_default().to_string() } else { c.into() };
        let Some(rest) = left.checked_sub(width(&shown)) else { return (taken, false) };
        left = rest;
        taken.push(shown);
    }
    (taken, true)
}

const CUT: &str = "...";

/// One line of at most `limit` characters; what is too long loses its end.
fn clip(text: &str, limit: usize) -> String {
    match fit(text.chars(), limit) {
        (parts, true) => parts.concat(),
        _ => fit(text.chars(), limit - CUT.len()).0.concat() + CUT,
    }
}

/// The same for a site, whose end says more than its beginning.
fn clip_site(site: &str, limit: usize) -> String {
    let (mut parts, all) = fit(site.chars().rev(), limit);
    if !all {
        parts = fit(site.chars().rev(), limit - CUT.len()).0;
        parts.push(CUT.to_owned());
    }
    parts.reverse();
    parts.concat()
}

/// A statement in quotes, on one line whatever its layout.
fn quoted(statement: &str, limit: usize) -> String {
    let flat = statement.split_whitespace().collect::<Vec<_>>().join(" ");
    format!("\"{}\"", clip(&flat, limit))
}

/// Two units at most: `0.4ms`, `350ms`, `12.4s`, `3m07s`, `2h05m`.
fn age(ns: u64) -> String {
    let (micros, millis, seconds) = (ns / 1_000, ns / 1_000_000, ns / 1_000_000_000);
    match seconds {
        0 if millis < 10 => format!("{millis}.{}ms", micros % 1_000 / 100),
        0 => format!("{millis}ms"),
        1..120 => format!("{seconds}.{}s", millis % 1_000 / 100),
        120..7_200 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
    }
}

fn owner_line(owner: &OwnerFacts) -> String {
    let mut line = owner.kind.name().to_owned();
    let mut add = |part: String| {
        line.push(' ');
        line.push_str(&part);
    };
    if !owner.name.is_empty() {
        add(clip(&owner.name, NAME_LIMIT));
    }
    if !owner.id.is_empty() {
        add(format!("id={}", clip(&owner.id, ID_LIMIT)));
    }
    add(format!("phase={}", owner.phase));
    line
}

impl Finding {
    /// What to change here: one line.
    pub fn hint(&self) -> &'static str {
        let owner = self.lease.as_ref().and_then(|lease| lease.owner.as_ref());
        let responded = owner.is_some_and(|owner| owner.phase.code() >= Phase::Responded.code());
        match self.code {
            // Whatever still runs then is a background task.
            FindingCode::IdleInTransaction | FindingCode::LockHeld if responded => {
                FindingCode::SessionAfterResponse.hint()
            }
            code => code.hint(),
        }
    }

    /// The line that did it or, where that is not known, the one of the lease's last statement.
    pub fn last(&self) -> &str {
        let known = self.lease.as_ref().map_or("", |lease| &lease.last);
        if self.site.is_empty() { known } else { &self.site }
    }

    /// It as one line of at most 1,500 characters, without what is not known.
    ///
    /// No name or statement can break the line or what shows it: control characters, ends of
    /// lines and marks of direction are escaped.
    pub fn line(&self) -> String {
        let mut line = self.code.name().to_owned();
        let mut add = |part: String| {
            line.push(' ');
            line.push_str(&part);
        };
        if self.age_ns > 0 {
            add(age(self.age_ns));
        }
        if let Some(lease) = &self.lease {
            add(format!("lease#{}", lease.number));
            if !lease.pool.is_empty() {
                add(format!("pool={}", clip(&lease.pool, POOL_LIMIT)));
            }
            if lease.backend_pid != 0 {
                add(format!("pid={}", lease.backend_pid));
            }
            if let Some(owner) = &lease.owner {
                add(owner_line(owner));
            }
        }
        if let Some(by) = &self.by {
            add(format!("by {}", owner_line(by)));
        }
        if let Some(lease) = &self.lease
            && !lease.opened.is_empty()
        {
            add(format!("opened {}", clip_site(&lease.opened, SITE_LIMIT)));
        }
        if !self.last().is_empty() {
            add(format!("last {}", clip_site(self.last(), SITE_LIMIT)));
        }
        if let Some(lease) = &self.lease {
            if !lease.statement.is_empty() {
                add(quoted(&lease.statement, STATEMENT_LIMIT));
            }
            if lease.statements > 0 {
                add(format!("wrote={}", wrote(lease)));
            }
        }
        if !self.detail.is_empty() {
            add(format!("({})", clip(&self.detail, DETAIL_LIMIT)));
        }
        add(format!("-> {}", self.hint()));
        line
    }
}

fn wrote(lease: &LeaseFacts) -> &'static str {
    if lease.write_age_ns.is_some() { "yes" } else { "no" }
}

const HEAD: [&str; 9] =
    ["LEASE", "OWNER", "PHASE", "STATE", "AGE", "IN STATE", "WROTE", "PID", "OPENED"];
const LAST: &str = "LAST";

fn row(lease: &LeaseFacts) -> ([String; HEAD.len()], String) {
    let unknown = || "-".to_owned();
    let known = |text: String| if text.is_empty() { unknown() } else { text };
    let owner = lease.owner.as_ref();
    let name = |owner: &OwnerFacts| {
        let id = if owner.id.is_empty() { String::new() } else { format!(" {}", owner.id) };
        clip(&format!("{} {}{id}", owner.kind, owner.name), OWNER_WIDTH)
    };
    let cells = [
        format!("#{}", lease.number),
        owner.map_or_else(unknown, name),
        owner.map_or_else(unknown, |owner| owner.phase.to_string()),
        lease.state.to_string(),
        age(lease.age_ns),
        age(lease.state_age_ns),
        wrote(lease).to_owned(),
        if lease.backend_pid == 0 { unknown() } else { lease.backend_pid.to_string() },
        known(clip_site(&lease.opened, SITE_WIDTH)),
    ];
    let mut last = clip_site(&lease.last, SITE_WIDTH);
    if !lease.statement.is_empty() {
        if !last.is_empty() {
            last.push(' ');
        }
        last.push_str(&quoted(&lease.statement, STATEMENT_WIDTH));
    }
    (cells, known(last))
}

/// The leases, one on a line under a head, the oldest first. No line ends the text.
///
/// It says so where there is none.
pub fn table(leases: &[LeaseFacts]) -> String {
    if leases.is_empty() {
        return "no leases: every connection is in its pool".to_owned();
    }
    let mut leases: Vec<_> = leases.iter().collect();
    leases.sort_by_key(|lease| (Reverse(lease.age_ns), lease.number));
    let head = (HEAD.map(str::to_owned), LAST.to_owned());
    let rows: Vec<_> = std::iter::once(head).chain(leases.into_iter().map(row)).collect();
    let mut widths = [0; HEAD.len()];
    for (cells, _) in &rows {
        for (most, cell) in widths.iter_mut().zip(cells) {
            *most = width(cell).max(*most);
        }
    }
    let mut text = String::new();
    for (cells, last) in &rows {
        if !text.is_empty() {
            text.push('\n');
        }
        for (cell, width) in cells.iter().zip(widths) {
            // Writing to a String does not fail.
            let _ = write!(text, "{cell:<width$}  ");
        }
        text.push_str(last);
    }
    text
}
