//! Upgrades: a new process takes over everything. No client is cut and no event is lost or repeated, also if the new process fails.

mod connections;
mod fake_successor;
mod kept;
mod load;
mod patterns;
mod refused;
mod reload;
mod requests;
mod sources;
mod state;
mod supervised;
mod swarm;
mod traffic;
mod upgraded_daemon;
