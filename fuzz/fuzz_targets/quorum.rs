//! libFuzzer's door to `gavel_fuzz::quorum`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    gavel_fuzz::quorum::run(bytes);
});
