//! libFuzzer's door to `gavel_fuzz::acl`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    gavel_fuzz::acl::run(bytes);
});
