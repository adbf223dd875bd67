//! libFuzzer's door to `gavel_fuzz::net`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    gavel_fuzz::net::run(bytes);
});
