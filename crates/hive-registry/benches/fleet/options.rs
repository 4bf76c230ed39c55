//! What can be asked for.

use std::time::Duration;

pub(crate) struct Options {
    pub(crate) agents: usize,
    pub(crate) hosts: usize,
    pub(crate) lasts: Duration,
    /// Until memory has found its level.
    pub(crate) warm: Duration,
    /// How old a client's connection becomes, at most.
    pub(crate) age: Duration,
    /// How often all connections are cut at once.
    pub(crate) storms: usize,
    /// Busy loops beside the registry meanwhile.
    pub(crate) hogs: usize,
}

impl Options {
    pub(crate) fn read(words: &[&str]) -> Self {
        let minutes = |value: &str| Duration::from_secs_f64(value.parse::<f64>().unwrap() * 60.0);
        let mut options = Self {
            agents: 10_000,
            hosts: 20,
            lasts: minutes("10"),
            warm: minutes("3"),
            age: Duration::from_secs(150),
            storms: 0,
            hogs: 2,
        };
        // Cargo says `--bench` as well.
        let mut words = words.iter().filter(|word| **word != "--bench");
        while let Some(word) = words.next() {
            let value = words.next().unwrap_or_else(|| panic!("{word} needs a value"));
            match *word {
                "--age-seconds" => options.age = Duration::from_secs(value.parse().unwrap()),
                "--agents" => options.agents = value.parse().unwrap(),
                "--hogs" => options.hogs = value.parse().unwrap(),
                "--hosts" => options.hosts = value.parse().unwrap(),
                "--minutes" => options.lasts = minutes(value),
                "--storms" => options.storms = value.parse().unwrap(),
                "--warm-minutes" => options.warm = minutes(value),
                _ => panic!("{word} is no option; see the top of benches/fleet/main.rs"),
            }
        }
        options
    }
}
