//! libFuzzer's door to `gavel_fuzz::blobs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    gavel_fuzz::blobs::run(bytes);
});
