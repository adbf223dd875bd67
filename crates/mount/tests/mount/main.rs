//! Real mounts of a tree in memory: what only the kernel can show of the way from a system call to an operation.

mod attributes;
mod failures;
mod files;
mod fixture;
mod keeping;
mod lifecycle;
mod listings;
mod mapping;
mod names;
mod past;
mod private;
mod races;
#[path = "../ram/mod.rs"]
mod ram;
mod reaper;
mod unasked;
