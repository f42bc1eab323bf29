//! Handing over to a new process: nobody is cut, nothing is lost or doubled, whatever becomes of the new process.

mod connections;
mod fake_successor;
mod lineage;
mod load;
mod refused;
mod reload;
mod requests;
mod sources;
mod state;
mod supervised;
mod swarm;
mod traffic;
