//! Situations one by one, and storms of them.

mod epoch;
mod epoch_storm;
mod rotation;
mod storm;
mod world;
