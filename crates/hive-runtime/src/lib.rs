//! What every service needs, and no domain: configuration, telemetry, listening, readiness, stopping, hardening, processes.
//!
//! It deliberately knows nothing of identities, secrets, plans or wires, and nothing of which service it serves.
//!
//! ```
//! use hive_runtime::config::{self, Reader};
//!
//! struct Config { listen: std::net::SocketAddr, slots: usize }
//!
//! fn read(reader: &mut Reader<'_>) -> Option<Config> {
//!     let listen = reader.required("HIVE_LISTEN", str::parse);
//!     let slots = reader.or("HIVE_WORKER_SLOTS", 2, str::parse);
//!     Some(Config { listen: listen?, slots })
//! }
//!
//! let environment = [("HIVE_LISTEN", "127.0.0.1:7000")];
//! let config = config::read(&environment.as_slice(), read).expect("nothing is wrong with it");
//! assert_eq!((config.listen.port(), config.slots), (7000, 2));
//!
//! let mistakes = config::read(&[("HIVE_WORKER_SLOTS", "many")].as_slice(), read).err().expect("two mistakes");
//! assert_eq!(mistakes.len(), 2); // every mistake, not the first
//! ```

pub mod config;
pub mod errors;
pub mod harden;
pub mod listen;
pub mod processes;
pub mod ready;
pub mod stop;
pub mod telemetry;
