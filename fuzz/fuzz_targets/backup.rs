//! libFuzzer's door to `gavel_fuzz::backup`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    gavel_fuzz::backup::run(bytes);
});
