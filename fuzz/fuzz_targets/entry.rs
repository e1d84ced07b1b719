//! Decodes any bytes to an entry or an error, without a panic. The body of an entry is what follows the metadata.

#![no_main]

use libfuzzer_sys::fuzz_target;
use response_boost::{Entry, Namespace};

fuzz_target!(|data: &[u8]| {
    let bytes = data.to_vec().into();
    // The key of the entries in the corpus.
    let key = Namespace::parse("users").expect("a namespace").key(["user", "1"]);
    match Entry::decode(&key, &bytes) {
        Ok(entry) => {
            let line_end = data.iter().position(|&byte| byte == b'\n').expect("a line of metadata");
            assert_eq!(entry.body, data[line_end + 1..]);
            assert!([200, 404].contains(&entry.status.as_u16()));
        }
        // The error contains none of the bytes; formatting it must not panic either.
        Err(error) => drop(error.to_string()),
    }
});
