//! Writes the seeds of a target into a folder, a file each: `seeds TARGET FOLDER`.

use std::path::Path;
use wasend_gateway_fuzz::seeds::TARGETS;

fn main() {
    let [name, folder] = [1, 2].map(|at| std::env::args().nth(at).expect("seeds TARGET FOLDER"));
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target");
    for (number, seed) in (target.seeds)().iter().enumerate() {
        std::fs::write(Path::new(&folder).join(format!("seed-{number:04}")), seed).expect("the seed can be written");
    }
}
