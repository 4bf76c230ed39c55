//! What can be asked for.

use std::time::Duration;

pub(crate) struct Options {
    pub(crate) agents: usize,
    pub(crate) lasts: Duration,
    pub(crate) rounds: usize,
    pub(crate) watchers: Vec<usize>,
    pub(crate) only: Vec<String>,
}

impl Options {
    pub(crate) fn read(words: &[&str]) -> Self {
        let mut options = Self {
            agents: 10_000,
            lasts: Duration::from_secs(5),
            rounds: 3,
            watchers: vec![100, 1_000],
            only: vec!["secured".to_owned(), "etcd".to_owned()],
        };
        // Cargo says `--bench` as well.
        let mut words = words.iter().filter(|word| **word != "--bench");
        while let Some(word) = words.next() {
            let value = words.next().unwrap_or_else(|| panic!("{word} needs a value"));
            let list = || value.split(',').map(str::to_owned);
            match *word {
                "--agents" => options.agents = value.parse().unwrap(),
                "--only" => options.only = list().collect(),
                "--rounds" => options.rounds = value.parse().unwrap(),
                "--seconds" => options.lasts = Duration::from_secs(value.parse().unwrap()),
                "--watchers" => {
                    options.watchers = list().map(|number| number.parse().unwrap()).collect();
                }
                _ => panic!("{word} is no option; see the top of benches/rivals/main.rs"),
            }
        }
        options
    }

    /// Those that carry calls, and those that carry watches besides.
    pub(crate) fn connections(&self) -> usize {
        crate::driver::CONNECTIONS
            + self.watchers.iter().max().unwrap_or(&0) / crate::watchers::STREAMS
    }
}
