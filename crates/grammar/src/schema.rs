//! A schema as it is enforced: objects closed, and little white space.

use serde_json::{Value, json};

/// White space between the parts of JSON: a model that may put any amount of it often never stops.
const JSON_SPACE: &str = r"[ ]|\n[ \t]{0,40}";

/// Words beside which `properties` are not all that an object may have.
const OPEN: [&str; 9] = [
    "additionalProperties",
    "patternProperties",
    "unevaluatedProperties",
    "allOf",
    "anyOf",
    "oneOf",
    "$ref",
    "if",
    "dependentSchemas",
];

/// `schema`, which allows no more than before: an object that lists its properties has no others, unless it says that it
/// may, since models go on with properties of their own otherwise. llama.cpp does the same.
pub(crate) fn enforced(mut schema: Value) -> Value {
    if !mentions(&schema, "allOf") {
        close(&mut schema);
    }
    if let Some(map) = schema.as_object_mut() {
        map.entry("x-guidance").or_insert_with(|| json!({"whitespace_pattern": JSON_SPACE}));
    }
    schema
}

/// Whether a key of this name is anywhere: parts of a conjunction cannot be closed each by itself.
fn mentions(value: &Value, name: &str) -> bool {
    match value {
        Value::Array(items) => items.iter().any(|item| mentions(item, name)),
        Value::Object(map) => map.iter().any(|(key, value)| key == name || mentions(value, name)),
        _ => false,
    }
}

fn close(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    for word in ["properties", "$defs", "definitions"] {
        map.get_mut(word).and_then(Value::as_object_mut).into_iter().for_each(|all| all.values_mut().for_each(close));
    }
    for word in ["items", "additionalProperties"] {
        map.get_mut(word).into_iter().for_each(close);
    }
    let has_properties = map.contains_key("properties");
    for word in ["anyOf", "oneOf", "prefixItems"].iter().filter(|_| !has_properties) {
        map.get_mut(*word).and_then(Value::as_array_mut).into_iter().for_each(|all| all.iter_mut().for_each(close));
    }
    if has_properties && !OPEN.iter().any(|word| map.contains_key(*word)) {
        map.insert("additionalProperties".to_owned(), false.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_that_list_their_properties_are_closed() {
        let rows = [
            (json!({"properties": {"a": {}}}), json!({"properties": {"a": {}}, "additionalProperties": false})),
            (
                json!({"properties": {}, "additionalProperties": true}),
                json!({"properties": {}, "additionalProperties": true}),
            ),
            (json!({"type": "object"}), json!({"type": "object"})),
            (
                json!({"properties": {"properties": {"items": {"properties": {}}}}}),
                json!({"properties": {"properties": {"items": {"properties": {}, "additionalProperties": false}}},
                    "additionalProperties": false}),
            ),
            (
                json!({"anyOf": [{"properties": {}}, {"type": "null"}]}),
                json!({"anyOf": [{"properties": {}, "additionalProperties": false}, {"type": "null"}]}),
            ),
            (
                json!({"properties": {}, "anyOf": [{"properties": {}}]}),
                json!({"properties": {}, "anyOf": [{"properties": {}}]}),
            ),
            (json!({"allOf": [{"properties": {}}]}), json!({"allOf": [{"properties": {}}]})),
            (json!({"enum": [{"properties": {}}]}), json!({"enum": [{"properties": {}}]})),
        ];
        for (schema, mut want) in rows {
            want["x-guidance"] = json!({"whitespace_pattern": JSON_SPACE});
            assert_eq!(enforced(schema), want);
        }
        assert_eq!(enforced(json!(true)), json!(true));
    }
}
