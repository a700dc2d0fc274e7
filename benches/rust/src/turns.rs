//! One thread's saves with and without the turn lock.

use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};
use turnwise::sqlite::Durability;
use turnwise::writer::{BatchWriter, Call};

use crate::measures::{BLOCK, median, per_second};
use crate::{Outcome, bare, batched, topics};

type Write<'a> = &'a dyn Fn(u64) -> Outcome<()>;

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
    let save_through = |writer: &BatchWriter, number| save.execute(writer, number);
    let mut sides: [(Write<'_>, Vec<f64>); 3] = [
        (&|number| save_through(&with, number), Vec::new()),
        (&|number| save_through(&without, number), Vec::new()),
        (&|number| bare::save_alone(&peer, number), Vec::new()),
    ];
    for block in 0..blocks {
        for (write, times) in &mut sides {
            let begun = Instant::now();
            (block * BLOCK..(block + 1) * BLOCK).try_for_each(write)?;
            times.push(1.0 / per_second(BLOCK, begun.elapsed()));
        }
        // Who comes second finds the code of the first in the caches.
        sides.reverse();
    }
    if blocks % 2 == 1 {
        sides.reverse();
    }
    let [ours, alone, theirs] = sides.map(|(_, times)| median(times));
    with.close(&Call::default())?;
    without.close(&Call::default())?;
    drop(peer);
    for path in &paths {
        topics::verify(path, blocks * BLOCK)?;
    }
    Ok(json!({"batch": ours, "batch_alone": alone, "bare": theirs}))
}
