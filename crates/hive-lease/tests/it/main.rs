//! Situations one by one, and storms of them.

mod epoch;
mod epoch_storm;
mod faults;
mod rotation;
mod stand;
mod storm;
mod world;
