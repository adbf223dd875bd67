//! libFuzzer's door to `gavel_fuzz::log`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    gavel_fuzz::log::run(bytes);
});
