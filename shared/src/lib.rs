//! What the Pullback agent and puller agree on: pages, names of content, frames, faults and the wire.
//!
//! Nothing here opens a file or a socket or reads a clock; readers and writers are given to it.

pub mod page;
pub mod page_set;
pub mod snapshot;
pub mod header;
pub mod hashes;
pub mod frame;
pub mod rebuilt;
pub mod cells;
pub mod fault;
pub mod explain;
pub mod verdict;
pub mod wire;
pub mod restoring;
pub mod identity;
pub mod agent_verifier;
pub mod pairing;
pub mod sql;
pub mod text;

/// The generated protocol types. They stop at [`wire`], where they become checked values.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated from proto/, which is documented"
)]
pub mod pb {
    tonic::include_proto!("pullback.v1");

    /// The encoded descriptor of `proto/`, for server reflection.
    pub const DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pullback.bin"));
}

/// The version of the protocol in `proto/` that this build speaks.
pub const PROTOCOL: u32 = 1;

/// What an agent says first behind the ssh door, before HTTP/2 begins: whatever a login shell printed before it is no part
/// of the connection.
pub const STDIO_MAGIC: &[u8] = b"\npullback-agent stdio 1 begins\n";

/// This release, as both programs print it.
pub const RELEASE: &str = env!("CARGO_PKG_VERSION");
