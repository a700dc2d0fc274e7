//! One process of the bench across processes; `turn_worker.py` is the same in Python.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::Barrier;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use turnwise::sqlite::{Durability, Params, Value as Parameter};
use turnwise::writer::{BatchWriter, Call, Unit};

use crate::Outcome;
use crate::batched;
use crate::topics::SAVE;

/// Rows that one thread writes.
const KEYS: u64 = 450;

struct Party {
    path: PathBuf,
    durability: Durability,
    first: u64,
    threads: u64,
    window: Duration,
}

impl Party {
    fn from_json(text: &str) -> Outcome<Self> {
        let spec: Value = serde_json::from_str(text)?;
        let number = |name| spec.get(name).and_then(Value::as_u64).ok_or(format!("no {name}"));
        let text = |name| spec.get(name).and_then(Value::as_str).ok_or(format!("no {name}"));
        let time = |name| spec.get(name).and_then(Value::as_f64).ok_or(format!("no {name}"));
        if time("every")? + time("pause")? > 0.0 {
            return Err("only a closed loop without pauses".into());
        }
        Ok(Self {
            path: text("path")?.into(),
            durability: Durability::from_name(text("level")?).ok_or("no such level")?,
            first: number("first")?,
            threads: number("threads")?,
            window: Duration::from_secs_f64(time("seconds")?),
        })
    }

    fn write(&self, writer: &BatchWriter, thread: u64, start: Instant) -> Outcome<Value> {
        let sql: std::sync::Arc<str> = SAVE.into();
        let (mut acknowledged, mut in_window, mut failed, mut in_doubt) =
            (0_u64, 0_u64, 0_u64, 0_u64);
        let mut first_error: Option<String> = None;
        let mut waits = BTreeMap::<u64, u64>::new();
        let mut number = 0;
        let mut took = Duration::ZERO;
        loop {
            let begun = Instant::now();
            if begun >= start + self.window {
                break;
            }
            let key = i64::try_from(thread * KEYS + number % KEYS)?;
            let values =
                vec![Parameter::Integer(key), Parameter::Text(format!("topic {number} saved"))];
            let outcome =
                writer.execute(Unit::one(std::sync::Arc::clone(&sql), Params::Positional(values)));
            let ended = Instant::now();
            match outcome {
                Ok(_) => {
                    acknowledged += 1;
                    in_window += u64::from(ended <= start + self.window);
                }
                Err(error) => {
                    match error.kind().name() {
                        "CommitOutcomeUnknown" | "FlushFailed" => in_doubt += 1,
                        _ => failed += 1,
                    }
                    first_error.get_or_insert_with(|| error.to_string());
                }
            }
            let wait = digits(u64::try_from((ended - begun).as_micros())?);
            *waits.entry(wait).or_default() += 1;
            took = ended.saturating_duration_since(start);
            number += 1;
        }
        let waits: Vec<(u64, u64)> = waits.into_iter().collect();
        Ok(json!({
            "acknowledged": acknowledged, "in_window": in_window, "failed": failed,
            "in_doubt": in_doubt, "error": first_error, "waits_us": waits, "ended": took.as_secs_f64(),
        }))
    }
}

/// The wait in the four digits that are kept.
fn digits(wait: u64) -> u64 {
    let mut step = 1;
    while wait / step > 9999 {
        step *= 10;
    }
    wait / step * step
}

/// Opens the file, says `ready`, reads when to start, writes until the end of the window.
pub(crate) fn run(spec: &str) -> Outcome<Value> {
    let party = Party::from_json(spec)?;
    let writer = batched::open(&party.path, party.durability)?;
    println!("ready");
    std::io::stdout().flush()?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    let start =
        Instant::now() + Duration::from_secs_f64((line.trim().parse::<f64>()? - now).max(0.0));
    let gate = Barrier::new(usize::try_from(party.threads)?);
    let outcomes: Vec<Outcome<Value>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (party.first..party.first + party.threads)
            .map(|thread| {
                let (party, writer, gate) = (&party, &writer, &gate);
                scope.spawn(move || {
                    gate.wait();
                    std::thread::sleep(start.saturating_duration_since(Instant::now()));
                    party.write(writer, thread, start)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".into())))
            .collect()
    });
    let stats = writer.stats();
    writer.close(&Call::default())?;
    let threads = outcomes.into_iter().collect::<Outcome<Vec<Value>>>()?;
    Ok(json!({"threads": threads, "stats": {"transactions": stats.transactions}}))
}
