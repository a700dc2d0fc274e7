//! Gaps for outsiders: writers that know nothing of the turn lock and poll for SQLite's own.

use std::time::Duration;

/// How long an outsider is remembered.
const MEMORY: Duration = Duration::from_secs(5);

/// The longest gap.
const LONGEST: Duration = Duration::from_millis(20);

/// The shortest gap: waking up to end one takes a tenth of that.
const SHORTEST: Duration = Duration::from_millis(1);

/// Time that the turns of this process owe to outsiders.
#[derive(Debug, Default, Clone)]
pub(super) struct Owed(Duration);

impl Owed {
    /// How long the database is to be left alone after a turn that took `held`, when an outsider
    /// was noticed `ago`. Short gaps are saved up for one that is worth its price.
    ///
    /// An outsider polls at its own times, so what counts is the share of time in which the lock is
    /// free: with a share f and the 58 polls that SQLite makes in 5 s it fails with (1 - f)^58. One
    /// that was noticed lately gets 5 % (5 % of failures), and more the longer it has not been seen:
    /// 10 % after 0.2 s (0.2 %), 25 % after 1 s (6e-8).
    pub(super) fn gap(&mut self, ago: Duration, held: Duration) -> Option<Duration> {
        let percent = match ago.as_millis() {
            0..200 => 5,
            200..1_000 => 10,
            _ if ago < MEMORY => 25,
            _ => {
                self.0 = Duration::ZERO;
                return None;
            }
        };
        self.0 = (self.0 + held * percent / (100 - percent)).min(LONGEST);
        (self.0 >= SHORTEST).then(|| std::mem::take(&mut self.0))
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    const AN_HOUR: Duration = Duration::from_secs(3600);

    fn gap(ago: u64, held: Duration) -> Option<Duration> {
        Owed::default().gap(Duration::from_millis(ago), held)
    }

    #[test]
    fn the_share_grows_until_the_outsider_is_forgotten() {
        let held = Duration::from_millis(19);
        assert_eq!(gap(0, held), Some(Duration::from_millis(1)));
        assert!(gap(500, held) > gap(0, held));
        assert!(gap(3_000, held) > gap(500, held));
        assert_eq!(gap(5_000, held), None);
    }

    #[test]
    fn a_long_turn_does_not_stop_everybody_for_long() {
        assert_eq!(gap(2_000, AN_HOUR), Some(LONGEST));
    }

    #[test]
    fn short_turns_save_up_and_owe_no_more_than_their_share() {
        let (mut owed, mut gaps, held) = (Owed::default(), Vec::new(), Duration::from_micros(190));
        for _ in 0..1_000 {
            gaps.extend(owed.gap(Duration::ZERO, held));
        }
        // 1,000 turns of 190 us, a twentieth of all time.
        assert_eq!(gaps, [SHORTEST; 10]);
    }

    #[test]
    fn what_is_owed_is_forgotten_with_the_outsider() {
        let mut owed = Owed::default();
        assert_eq!(owed.gap(Duration::ZERO, Duration::from_millis(18)), None);
        assert_eq!(owed.gap(MEMORY, AN_HOUR), None);
        assert_eq!(owed.gap(Duration::ZERO, Duration::from_millis(1)), None);
    }

    proptest::proptest! {
        #[test]
        fn a_gap_is_its_share_of_the_time(ago in 0..5_000_u64, held in 1..60_000_000_u64) {
            let held = Duration::from_micros(held);
            let found = Owed::default().gap(Duration::from_millis(ago), held).unwrap_or_default();
            let share = match ago { 0..200 => 0.05, 200..1_000 => 0.10, _ => 0.25 };
            let due = held.as_secs_f64() * share / (1.0 - share);
            let due = if due < SHORTEST.as_secs_f64() { 0.0 } else { due.min(LONGEST.as_secs_f64()) };
            proptest::prop_assert!((found.as_secs_f64() - due).abs() < 1e-6, "{found:?}, not {due}");
        }
    }
}
