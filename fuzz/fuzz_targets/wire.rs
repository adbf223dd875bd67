//! libFuzzer's door to `gavel_fuzz::wire`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    gavel_fuzz::wire::run(bytes);
});
