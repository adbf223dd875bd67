//! Real mounts of a tree in memory: what only the kernel can show of the way from a system call to an operation.

mod attributes;
mod failures;
mod files;
mod fixture;
mod lifecycle;
mod listings;
mod mapping;
mod names;
#[path = "../ram/mod.rs"]
mod ram;
