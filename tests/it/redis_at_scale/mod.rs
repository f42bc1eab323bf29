//! Redis with TLS, with users of few rights, behind Sentinel, and as a cluster.

mod acl;
mod cluster;
mod deaf;
mod numbers;
mod sentinel;
mod tls;
mod too_old;
