//! The tables of sequence rules: which cases are a rule's, and that no rule is forgotten.
#![allow(missing_docs, unreachable_pub)]

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// Runs the cases of one rule; there must be some.
pub fn run_rule(table: &Value, rule: &str, run_case: fn(&Value)) {
    let cases = table["cases"].as_array().unwrap();
    let cases: Vec<&Value> = cases.iter().filter(|case| case["rule"] == rule).collect();
    assert!(!cases.is_empty(), "no case of rule {rule}");
    cases.into_iter().for_each(run_case);
}

/// A step's answer, or the kind of its error, is what the table says.
pub fn expect(got: &onceflow_core::Result<Value>, step: &Value, place: &str) {
    match (got, step.get("error")) {
        (Ok(got), None) => assert_eq!(got, step.get("out").unwrap_or(&json!(null)), "{place}"),
        (Err(error), Some(kind)) => assert_eq!(kind, error.kind().as_str(), "{place}: {error}"),
        (got, error) => panic!("{place}: {got:?}, expected error {error:?}"),
    }
}

/// Every rule from S1 to S34 has a test and a case, or a reason why not.
pub fn check_all_listed(table: &Value, tested: &[&str]) {
    let tested: BTreeSet<&str> = tested.iter().copied().collect();
    let cases = table["cases"].as_array().unwrap();
    let in_cases: BTreeSet<&str> =
        cases.iter().map(|case| case["rule"].as_str().unwrap()).collect();
    assert_eq!(tested, in_cases);
    let mut all = tested;
    for entry in table["not_applicable"].as_array().unwrap() {
        assert!(entry["reason"].as_str().unwrap().len() > 20, "{entry}");
        assert!(all.insert(entry["rule"].as_str().unwrap()), "{entry} is listed twice");
    }
    let expected: Vec<String> = (1..=34).map(|number| format!("S{number}")).collect();
    assert_eq!(all, expected.iter().map(String::as_str).collect());
}

/// A test for each of these rules, and `TESTED`, the list of them.
#[macro_export]
macro_rules! rules {
    ($($test:ident: $rule:literal,)*) => {
        $(#[test]
        fn $test() {
            rules_support::run_rule(&table(), $rule, run_case);
        })*
        const TESTED: &[&str] = &[$($rule),*];
    };
}
