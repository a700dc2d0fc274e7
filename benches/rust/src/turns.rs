//! One thread's saves with and without the turn lock.

use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};
use turnwise::sqlite::Durability;
use turnwise::writer::{BatchWriter, Call};

use crate::measures::{BLOCK, median, per_second};
use crate::{Outcome, bare, batched, topics};

/// Seconds for a save: the median over blocks that alternate.
pub(crate) fn alone(folder: &Path, blocks: u64) -> Outcome<Value> {
    Ok(json!({
        "full": alone_at(folder, Durability::Full, blocks)?,
        "normal": alone_at(folder, Durability::Normal, blocks * 4)?,
    }))
}

fn alone_at(folder: &Path, durability: Durability, blocks: u64) -> Outcome<Value> {
    let paths = ["with", "without", "bare"].map(|name| folder.join(format!("{name}.db")));
    let [with_path, without_path, bare_path] = &paths;
    for path in &paths {
        topics::create(path)?;
    }
    let with = batched::open(with_path, durability)?;
    let without = batched::open_without_turns(without_path, durability)?;
    let peer = bare::open(bare_path, durability)?;
    let save = batched::Save::new();
    let through =
        |writer: &BatchWriter, number: u64| -> Outcome<()> { save.execute(writer, number) };
    let clocked = |block: u64, write: &dyn Fn(u64) -> Outcome<()>| -> Outcome<f64> {
        let begun = Instant::now();
        (block * BLOCK..(block + 1) * BLOCK).try_for_each(write)?;
        Ok(1.0 / per_second(BLOCK, begun.elapsed()))
    };
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    for block in 0..blocks {
        let [ours, alone, theirs] = &mut times;
        ours.push(clocked(block, &|number| through(&with, number))?);
        alone.push(clocked(block, &|number| through(&without, number))?);
        theirs.push(clocked(block, &|number| bare::save_alone(&peer, number))?);
    }
    with.close(&Call::default())?;
    without.close(&Call::default())?;
    drop(peer);
    for path in &paths {
        topics::verify(path, blocks * BLOCK)?;
    }
    let [ours, alone, theirs] = times.map(median);
    Ok(json!({"batch": ours, "batch_alone": alone, "bare": theirs}))
}
