//! Invokes the function with any payload. Each reply must obey the HTTP contract.

#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::{Corpus, fuzz_target};
use serde_json::Value;

#[path = "../../tests/suite/support/contract.rs"]
mod contract;

thread_local! {
    static FUNCTION: RefCell<Box<dyn FnMut(&[u8]) -> Option<Value>>> =
        RefCell::new(Box::new(contract::function()));
}

fuzz_target!(|data: &[u8]| -> Corpus {
    let payload = contract::event_of(data);
    if let Some(reply) = FUNCTION.with_borrow_mut(|function| function(&payload)) {
        contract::assert_within_contract(&reply);
    }
    Corpus::Keep
});
