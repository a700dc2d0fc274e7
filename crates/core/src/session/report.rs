//! Which findings are told, and which were.

use std::collections::{BTreeMap, VecDeque};

use super::finding::{Finding, FindingCode};

/// Nanoseconds between two reports of one code and severity at one site.
const QUIET_NS: u64 = 60_000_000_000;
/// How many findings are kept.
const KEPT: usize = 1_000;
/// How many sites are known; the one that was reported the longest ago gives way.
const SITES: usize = 1_024;

/// What became of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noted {
    /// Which one it is of this process, from 1.
    pub number: u64,
    /// `None`: a repeat that is not to be told. Else how many of those came before it.
    pub reported: Option<u64>,
}

/// A finding that was noted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// It.
    pub finding: Finding,
    /// What became of it.
    pub noted: Noted,
}

#[derive(Debug)]
struct Site {
    reported_ns: u64,
    suppressed: u64,
}

/// The findings of a process: the newest, a count of all, and which of them to tell.
///
/// Of one code and severity at one site the first is told, and then one a minute; so that no info
/// keeps a warning back, and no warning the info that it is over. The site is the line that took the
/// lease; where that is not known, the line of its last statement, or the name of an owner.
#[derive(Debug, Default)]
pub struct Journal {
    newest: VecDeque<Recorded>,
    counts: [u64; FindingCode::ALL.len()],
    sites: BTreeMap<(i32, i32, String), Site>,
}

impl Journal {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Records a finding, and says whether to tell it.
    pub fn note(&mut self, finding: Finding, now_ns: u64) -> Noted {
        for (&code, count) in FindingCode::ALL.iter().zip(&mut self.counts) {
            *count += u64::from(code == finding.code);
        }
        let noted =
            Noted { number: self.counts.iter().sum(), reported: self.limit(&finding, now_ns) };
        if self.newest.len() == KEPT {
            self.newest.pop_front();
        }
        self.newest.push_back(Recorded { finding, noted });
        noted
    }

    /// The newest 1,000, in the order in which they were noted.
    pub fn newest(&self) -> impl DoubleEndedIterator<Item = &Recorded> + ExactSizeIterator {
        self.newest.iter()
    }

    /// How many of each code were noted since the start, in order of number.
    pub fn counts(&self) -> impl ExactSizeIterator<Item = (FindingCode, u64)> {
        FindingCode::ALL.iter().copied().zip(self.counts)
    }

    /// Forgets the findings and what was told of them; not the counts and the number.
    pub fn clear(&mut self) {
        self.newest.clear();
        self.sites.clear();
    }

    fn limit(&mut self, finding: &Finding, now_ns: u64) -> Option<u64> {
        let key = (finding.code.code(), finding.severity.code(), site(finding).to_owned());
        if let Some(known) = self.sites.get_mut(&key) {
            if now_ns.saturating_sub(known.reported_ns) < QUIET_NS {
                known.suppressed += 1;
                return None;
            }
            known.reported_ns = now_ns;
            return Some(std::mem::take(&mut known.suppressed));
        }
        if self.sites.len() == SITES {
            let oldest = self.sites.iter().min_by_key(|(_, site)| site.reported_ns);
            if let Some(key) = oldest.map(|(key, _)| key.clone()) {
                self.sites.remove(&key);
            }
        }
        self.sites.insert(key, Site { reported_ns: now_ns, suppressed: 0 });
        Some(0)
    }
}

fn site(finding: &Finding) -> &str {
    let lease = finding.lease.as_ref();
    let by = finding.by.as_ref().map(|by| by.name.as_str());
    let places = [
        lease.map(|lease| lease.opened.as_str()),
        Some(finding.last()),
        by,
        lease.and_then(|lease| lease.owner.as_ref()).map(|owner| owner.name.as_str()),
    ];
    places.into_iter().flatten().find(|place| !place.is_empty()).unwrap_or("")
}
