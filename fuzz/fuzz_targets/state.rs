//! libFuzzer's door to `gavel_fuzz::state`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    gavel_fuzz::state::run(bytes);
});
