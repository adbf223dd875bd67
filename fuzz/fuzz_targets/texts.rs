//! libFuzzer's door to `gavel_fuzz::texts`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    gavel_fuzz::texts::run(bytes);
});
