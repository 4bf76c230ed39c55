//! Where the real servers are that `cargo xtask real` put into the target directory.

use std::path::PathBuf;

/// A program, such as `bao` or `redis-server`, in the target directory that holds the running one; None where it was
/// not put there.
pub fn program(name: &str) -> Option<PathBuf> {
    below("bin").map(|directory| directory.join(name)).filter(|program| program.is_file())
}

/// The directory with Kafka's archives.
pub fn kafka_libraries() -> Option<PathBuf> {
    below("kafka/libs").filter(|directory| directory.is_dir())
}

fn below(place: &str) -> Option<PathBuf> {
    let this = std::env::current_exe().ok()?;
    let tools = this.ancestors().map(|ancestor| ancestor.join("tools"));
    tools.map(|tools| tools.join(place)).find(|place| place.is_dir())
}
