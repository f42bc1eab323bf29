//! The tables of the configuration file, a file each: their keys, and what must hold between the keys of one table.

mod drain;
mod history;
mod listen;
mod process;
mod publish;
mod redis;
mod stream;

pub use drain::Drain;
pub use history::History;
pub use listen::Listen;
pub use process::{Account, LogFormat, Process};
pub use publish::{KeyFiles, Publish};
pub use redis::Redis;
pub use stream::Stream;
