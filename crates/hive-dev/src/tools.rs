//! Where `cargo xtask real` and `cargo xtask interop` put real servers and others' libraries into the target directory.

use std::path::PathBuf;

/// A program, such as `bao` or `redis-server`, in the target directory that holds the running one; None where it was
/// not put there.
pub fn program(name: &str) -> Option<PathBuf> {
    below("bin").map(|directory| directory.join(name)).filter(|program| program.is_file())
}

/// The Python with the libraries that `cargo xtask interop` installed.
pub fn python() -> Option<PathBuf> {
    below("python/bin").map(|directory| directory.join("python"))
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
