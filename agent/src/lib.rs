//! The Pullback agent: consistent snapshots of live SQLite databases, served over gRPC.
//!
//! One pull, read top to bottom: [`service`] takes the call, [`snapshot`] decides and sends, [`source`] holds the
//! database, `sink` is what SQLite's backup writes into, [`collector`] compares, [`mirror`] and [`spool`] keep,
//! [`view`] reads what was kept, [`transfer`] sends.

pub mod service;
pub mod snapshot;
pub mod source;
pub mod relay;
pub mod collector;
pub mod delta;
pub mod rebuild;
pub mod origins;
pub mod mirror;
pub mod mirror_dir;
pub mod mirror_pages;
pub mod chain;
pub mod kept;
pub mod view;
pub mod spool;
pub mod transfer;
pub mod call;
pub mod clock;
pub mod identity;
pub mod peers;
pub mod codes;
pub mod access;
pub mod door;
pub mod pairing;
pub mod invitation;
pub mod refusals;
pub mod turns;
pub mod tls;
pub mod settings;
pub mod room;
pub mod statistics;
pub mod users;
pub mod discover;
pub mod init;
pub mod systemd;
pub mod answer;
pub mod doctor;
pub mod addresses;
pub mod config;
pub mod serve;
pub mod one_file;
pub mod restore;
pub mod stage;
pub mod live;
pub mod swap;
pub mod aside;
pub mod tables;

mod durable;
mod foreign_keys;
mod sink;
