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

    proptest::proptest! {
        #[test]
        fn a_gap_is_its_share_of_the_time(ago in 0..5_000_u64, held in 1..60_000_000_u64) {
            let held = Duration::from_micros(held);
            let found = gap(Duration::from_millis(ago), held).unwrap_or_default();
            let share = found.as_secs_f64() / (found + held).as_secs_f64();
            let percent = match ago { 0..200 => 0.05, 200..1_000 => 0.10, _ => 0.25 };
            proptest::prop_assert!(found <= LONGEST);
            proptest::prop_assert!(share < percent + 1e-6, "{share}");
            proptest::prop_assert!(found == LONGEST || share > percent - 1e-3, "{share}");
        }
    }
}
