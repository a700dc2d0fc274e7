//! Gaps for outsiders: writers that know nothing of the turn lock and poll for SQLite's own.

use std::time::Duration;

/// How long an outsider is remembered.
pub(super) const MEMORY: Duration = Duration::from_secs(5);

/// The longest gap.
const LONGEST: Duration = Duration::from_millis(20);

/// How long the database is left alone after a turn that took `held`, when an outsider was noticed
/// `ago`.
///
/// An outsider polls at its own times, so what counts is the share of time in which the lock is
/// free: with a share f and the 58 polls that SQLite makes in 5 s it fails with (1 - f)^58. One that
/// was noticed lately gets 5 % (5 % of failures), and more the longer it has not been seen: 10 %
/// after 0.2 s (0.2 %), 25 % after 1 s (6e-8).
pub(super) fn gap(ago: Duration, held: Duration) -> Option<Duration> {
    let percent = match ago.as_millis() {
        0..200 => 5,
        200..1_000 => 10,
        _ if ago < MEMORY => 25,
        _ => return None,
    };
    Some((held * percent / (100 - percent)).min(LONGEST))
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn the_share_grows_until_the_outsider_is_forgotten() {
        let held = Duration::from_millis(19);
        let gap = |ago| gap(Duration::from_millis(ago), held);
        assert_eq!(gap(0), Some(Duration::from_millis(1)));
        assert!(gap(500) > gap(0));
        assert!(gap(3_000) > gap(500));
        assert_eq!(gap(5_000), None);
    }

    #[test]
    fn a_long_turn_does_not_stop_everybody_for_long() {
        assert_eq!(gap(Duration::from_secs(2), Duration::from_secs(60)), Some(LONGEST));
    }
}
