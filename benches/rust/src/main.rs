//! Measures turnwise against bare rusqlite in interleaved rounds, and prints every round as JSON.
//!
//! ```text
//! turnwise-benches all FOLDER ROUNDS|--quick
//! turnwise-benches party SPEC
//! turnwise-benches turns FOLDER BLOCKS
//! turnwise-benches scan ROUNDS RUNS
//! turnwise-benches loop FOLDER turnwise|pipelined|bare full|normal WRITES
//! ```
//!
//! `loop` makes writes of one kind and nothing else, for a profiler or a counter of instructions.

#![allow(clippy::print_stdout, reason = "the report is the output")]

mod bare;
mod batched;
mod measures;
mod party;
mod scan;
mod topics;
mod turns;

use std::path::{Path, PathBuf};

use serde_json::json;
use turnwise::sqlite::Durability;

pub(crate) type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["all", folder, rounds] => {
            let plan = match *rounds {
                "--quick" => measures::Plan::QUICK,
                rounds => measures::Plan::FULL.with_rounds(rounds.parse()?),
            };
            println!("{}", measures::all(Path::new(folder), &plan)?);
            Ok(())
        }
        ["party", spec] => {
            println!("{}", party::run(spec)?);
            Ok(())
        }
        ["turns", folder, blocks] => {
            println!("{}", turns::alone(Path::new(folder), blocks.parse()?)?);
            Ok(())
        }
        ["scan", rounds, runs] => {
            println!("{}", scan::measure(rounds.parse()?, runs.parse()?)?);
            Ok(())
        }
        ["loop", folder, side, durability, writes] => {
            write_alone(&PathBuf::from(folder).join("loop.db"), side, durability, writes.parse()?)
        }
        _ => Err(
            "usage: all FOLDER ROUNDS|--quick | party SPEC | turns FOLDER BLOCKS | scan ROUNDS RUNS | loop FOLDER turnwise|pipelined|bare full|normal N"
                .into(),
        ),
    }
}

fn write_alone(path: &Path, side: &str, durability: &str, saves: u64) -> Outcome<()> {
    let durability = match durability {
        "full" => Durability::Full,
        "normal" => Durability::Normal,
        other => return Err(format!("no durability: {other}").into()),
    };
    topics::create(path)?;
    match side {
        "turnwise" => {
            let writer = batched::open(path, durability)?;
            let save = batched::Save::new();
            (0..saves).try_for_each(|number| save.execute(&writer, number))?;
            writer.close(&turnwise::writer::Call::default())?;
            let stats = writer.stats();
            println!("{}", json!({"inline": stats.inline, "transactions": stats.transactions}));
        }
        "pipelined" => {
            let writer = batched::open(path, durability)?;
            batched::pipeline(&writer, saves)?;
            writer.close(&turnwise::writer::Call::default())?;
        }
        "bare" => {
            let peer = bare::open(path, durability)?;
            (0..saves).try_for_each(|number| bare::save_alone(&peer, number))?;
        }
        other => return Err(format!("no side: {other}").into()),
    }
    topics::verify(path, saves)
}
