//! What is measured: rounds of both sides in turn, each on a fresh file.

use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use turnwise::sqlite::Durability;
use turnwise::writer::Call;

use crate::Outcome;
use crate::{bare, batched, topics};

const THREADS: u64 = 58;
const DURABILITIES: [Durability; 2] = [Durability::Full, Durability::Normal];

/// How much is measured.
pub(crate) struct Plan {
    rounds: u32,
    /// How long each side of a closed loop runs in a round.
    window: Duration,
    /// Saves that are submitted in a row.
    submits: u64,
    /// Blocks of uncontended saves of each side in a round.
    blocks: u64,
}

impl Plan {
    pub(crate) const FULL: Self =
        Self { rounds: 7, window: Duration::from_secs(2), submits: 200_000, blocks: 40 };
    pub(crate) const QUICK: Self =
        Self { rounds: 1, window: Duration::from_millis(100), submits: 5_000, blocks: 2 };

    pub(crate) fn with_rounds(self, rounds: u32) -> Self {
        Self { rounds, ..self }
    }
}

/// Saves in a block, short enough that both sides meet the same weather.
pub(crate) const BLOCK: u64 = 50;

/// Everything, as JSON: for each measure its unit and the raw rounds of both sides.
pub(crate) fn all(folder: &Path, plan: &Plan) -> Outcome<Value> {
    let mut report = serde_json::Map::new();
    for durability in DURABILITIES {
        let name = durability.name();
        let measured = rounds(folder, plan, &|path, ours| waiting(path, durability, plan, ours))?;
        report.insert(format!("waiting_{name}"), as_json("rows/s", &measured));
        let measured = rounds(folder, plan, &|path, ours| pipelined(path, durability, plan, ours))?;
        report.insert(format!("pipelined_{name}"), as_json("rows/s", &measured));
        let mut measured = Vec::new();
        for _ in 0..plan.rounds {
            measured.push(uncontended(folder, durability, plan)?);
        }
        report.insert(format!("uncontended_{name}"), as_json("s/write", &measured));
    }
    Ok(json!({
        "settings": {
            "threads": THREADS, "window_s": plan.window.as_secs_f64(), "submits": plan.submits,
            "writes_in_a_block": BLOCK, "blocks": plan.blocks, "rounds": plan.rounds,
            "rows_in_the_table": topics::KEYS, "journal_mode": "wal",
        },
        "sqlite": rusqlite::version(),
        "measures": report,
    }))
}

fn as_json(unit: &str, rounds: &[[f64; 2]]) -> Value {
    let rounds: Vec<Value> =
        rounds.iter().map(|[ours, theirs]| json!({"turnwise": ours, "rusqlite": theirs})).collect();
    json!({"unit": unit, "rounds": rounds})
}

/// Both sides in turn; who goes first changes from round to round.
fn rounds(
    folder: &Path,
    plan: &Plan,
    side: &dyn Fn(&Path, bool) -> Outcome<f64>,
) -> Outcome<Vec<[f64; 2]>> {
    let path = folder.join("round.db");
    (0..plan.rounds)
        .map(|round| {
            let ours_first = round % 2 == 0;
            let first = side(&path, ours_first)?;
            let second = side(&path, !ours_first)?;
            Ok(if ours_first { [first, second] } else { [second, first] })
        })
        .collect()
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
pub(crate) fn per_second(saves: u64, took: Duration) -> f64 {
    saves as f64 / took.as_secs_f64()
}

/// 58 threads that each wait for every save, against transactions of 58 rows in one thread.
fn waiting(path: &Path, durability: Durability, plan: &Plan, ours: bool) -> Outcome<f64> {
    topics::create(path)?;
    let (saves, took) = if ours {
        closed_loop(path, durability, plan.window)?
    } else {
        let peer = bare::open(path, durability)?;
        let begun = Instant::now();
        let mut saves = 0;
        while begun.elapsed() < plan.window {
            bare::save_together(&peer, saves..saves + THREADS)?;
            saves += THREADS;
        }
        (saves, begun.elapsed())
    };
    topics::verify(path, saves)?;
    Ok(per_second(saves, took))
}

fn closed_loop(path: &Path, durability: Durability, window: Duration) -> Outcome<(u64, Duration)> {
    let writer = batched::open(path, durability)?;
    let start = Barrier::new(usize::try_from(THREADS)?);
    let outcomes: Vec<Outcome<(u64, Duration)>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (writer, start) = (&writer, &start);
                scope.spawn(move || {
                    let save = batched::Save::new();
                    start.wait();
                    let begun = Instant::now();
                    let mut saves = 0;
                    while begun.elapsed() < window {
                        save.execute(writer, thread + THREADS * saves)?;
                        saves += 1;
                    }
                    Ok((saves, begun.elapsed()))
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".into())))
            .collect()
    });
    writer.close(&Call::default())?;
    let (mut saves, mut took) = (0, Duration::ZERO);
    for outcome in outcomes {
        let (number, time) = outcome?;
        saves += number;
        took = took.max(time);
    }
    Ok((saves, took))
}

/// One thread that submits without waiting, against one big transaction.
fn pipelined(path: &Path, durability: Durability, plan: &Plan, ours: bool) -> Outcome<f64> {
    topics::create(path)?;
    let took = if ours {
        let writer = batched::open(path, durability)?;
        let begun = Instant::now();
        batched::pipeline(&writer, plan.submits)?;
        let took = begun.elapsed();
        writer.close(&Call::default())?;
        took
    } else {
        let peer = bare::open(path, durability)?;
        let begun = Instant::now();
        bare::save_together(&peer, 0..plan.submits)?;
        begun.elapsed()
    };
    topics::verify(path, plan.submits)?;
    Ok(per_second(plan.submits, took))
}

/// One thread that waits for every save: the median over blocks that alternate.
fn uncontended(folder: &Path, durability: Durability, plan: &Plan) -> Outcome<[f64; 2]> {
    let (our_path, their_path) = (folder.join("ours.db"), folder.join("theirs.db"));
    topics::create(&our_path)?;
    topics::create(&their_path)?;
    let writer = batched::open(&our_path, durability)?;
    let save = batched::Save::new();
    let peer = bare::open(&their_path, durability)?;
    let timed = |block: u64, write: &dyn Fn(u64) -> Outcome<()>| -> Outcome<f64> {
        let begun = Instant::now();
        (block * BLOCK..(block + 1) * BLOCK).try_for_each(write)?;
        Ok(1.0 / per_second(BLOCK, begun.elapsed()))
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for block in 0..plan.blocks {
        ours.push(timed(block, &|number| save.execute(&writer, number))?);
        theirs.push(timed(block, &|number| bare::save_alone(&peer, number))?);
    }
    writer.close(&Call::default())?;
    drop(peer);
    topics::verify(&our_path, plan.blocks * BLOCK)?;
    topics::verify(&their_path, plan.blocks * BLOCK)?;
    Ok([median(ours), median(theirs)])
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
