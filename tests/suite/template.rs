//! The variables that `template.yaml` sets are those that the programs read.

use std::cell::RefCell;
use std::collections::BTreeSet;

use users_function::config::Config;

#[test]
fn the_template_sets_each_variable_that_is_read_and_no_other() {
    let read = RefCell::new(BTreeSet::new());
    let config = Config::from_lookup(|name| {
        read.borrow_mut().insert(name.to_owned());
        None
    });
    config.expect("nothing set is as good as anything");
    // Those are Lambda's own.
    let read: BTreeSet<String> =
        read.into_inner().into_iter().filter(|name| !name.starts_with("AWS_LAMBDA_")).collect();

    let template = include_str!("../../template.yaml");
    let (_, variables) =
        template.split_once("\n      Variables:\n").expect("variables for all functions");
    let set: BTreeSet<String> = variables
        .lines()
        .take_while(|line| line.starts_with("        "))
        .filter_map(|line| line.strip_prefix("        ")?.split_once(':'))
        .map(|(name, _)| name.to_owned())
        .filter(|name| !name.starts_with([' ', '#']))
        .collect();
    assert_eq!(set, read);
    assert!(!variables.contains("\n      Variables:\n"), "no function has others");
}
