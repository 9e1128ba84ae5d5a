//! The published schema of results.

use serde_json::Value;

/// Checks a result against it.
#[track_caller]
pub(crate) fn check(result: &Value) {
    let schema = serde_json::from_str(include_str!("../../../docs/result.schema.json")).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<_> = validator.iter_errors(result).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?} in {result}");
}
