//! libFuzzer's door to `gavel_fuzz::mirror`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    gavel_fuzz::mirror::run(bytes);
});
