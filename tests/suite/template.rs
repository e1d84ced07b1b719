//! `template.yaml` sets exactly the variables that the programs read.

use std::cell::RefCell;
use std::collections::BTreeSet;

use users_function::config::{Config, ReleaseCheckConfig};

#[test]
fn the_template_sets_each_variable_that_is_read_and_no_other() {
    let read = RefCell::new(BTreeSet::new());
    let config = Config::from_lookup(|name| {
        read.borrow_mut().insert(name.to_owned());
        None
    });
    config.expect("nothing set is as good as anything");
    // Lambda sets these itself.
    let read: BTreeSet<String> =
        read.into_inner().into_iter().filter(|name| !name.starts_with("AWS_LAMBDA_")).collect();

    let template = include_str!("../../template.yaml");
    let (_, variables) =
        template.split_once("\n      Variables:\n").expect("variables for all functions");
    assert_eq!(set_in(variables, "        "), read);

    // One function has additional variables.
    let read_by_check = RefCell::new(BTreeSet::new());
    let config = ReleaseCheckConfig::from_lookup(|name| {
        read_by_check.borrow_mut().insert(name.to_owned());
        None
    });
    config.expect_err("it needs a version to ask");
    let read_by_check: BTreeSet<String> = read_by_check
        .into_inner()
        .into_iter()
        .filter(|name| !name.starts_with("AWS_LAMBDA_"))
        .collect();
    let (_, own) =
        variables.split_once("\n        Variables:\n").expect("those of the release check");
    let own = set_in(own, "          ");
    assert!(own.is_disjoint(&read));
    assert_eq!(own.len(), read_by_check.difference(&read).count());
    assert!(own.is_subset(&read_by_check));
}

/// The names at this depth, up to the first line at another depth.
fn set_in(variables: &str, depth: &str) -> BTreeSet<String> {
    variables
        .lines()
        .take_while(|line| line.starts_with(depth))
        .filter_map(|line| line.strip_prefix(depth)?.split_once(':'))
        .map(|(name, _)| name.to_owned())
        .filter(|name| !name.starts_with([' ', '#']))
        .collect()
}
