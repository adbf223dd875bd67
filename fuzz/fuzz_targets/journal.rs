//! libFuzzer's door to `gavel_fuzz::journal`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    gavel_fuzz::journal::run(bytes);
});
