//! Fields of a JSON object, taken one by one: what is left at the end was not understood. Errors name the field with its
//! whole path. `null` is the same as absent.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::error::ApiError;

/// An object whose fields are being taken.
#[derive(Clone, Debug)]
pub struct Fields {
    map: Map<String, Value>,
    path: String,
}

impl Fields {
    /// A request's body.
    pub fn parse(bytes: &[u8]) -> Result<Self, ApiError> {
        match serde_json::from_slice(bytes).map_err(|error| ApiError::Body(error.to_string()))? {
            Value::Object(map) => Ok(Self { map, path: String::new() }),
            other => Err(ApiError::Body(format!("it is {}", kind(&other)))),
        }
    }

    /// A value inside a body, found at `path`.
    pub fn of(value: Value, path: impl Into<String>) -> Result<Self, ApiError> {
        let path = path.into();
        match value {
            Value::Object(map) => Ok(Self { map, path }),
            other => Err(ApiError::invalid(&path, format!("'{path}' must be an object, got {}", kind(&other)))),
        }
    }

    /// The whole path of a field.
    pub fn at(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// A field of any type.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.map.shift_remove(name).filter(|value| !value.is_null())
    }

    /// An error that names a field.
    pub fn wrong(&self, name: &str, message: &str) -> ApiError {
        let path = self.at(name);
        ApiError::invalid(&path, format!("'{path}' {message}"))
    }

    /// A number in a range.
    pub fn number(&mut self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let (low, high) = (range.start(), range.end());
        match value.as_f64().filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(name, &format!("must be a number from {low} to {high}, got {}", short(&value)))),
        }
    }

    /// A whole number in a range.
    pub fn whole(&mut self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let (low, high) = (range.start(), range.end());
        // Some clients write 5 as 5.0.
        let whole =
            value.as_i64().or_else(|| value.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < 9e15).map(|n| n as i64));
        match whole.filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None if *high == i64::MAX => {
                Err(self.wrong(name, &format!("must be a whole number from {low}, got {}", short(&value))))
            }
            None => {
                Err(self.wrong(name, &format!("must be a whole number from {low} to {high}, got {}", short(&value))))
            }
        }
    }

    /// True or false.
    pub fn flag(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(self.wrong(name, &format!("must be true or false, got {}", short(&other)))),
        }
    }

    /// A string.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(name, &format!("must be a string, got {}", short(&other)))),
        }
    }

    /// A list.
    pub fn list(&mut self, name: &str) -> Result<Option<Vec<Value>>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(other) => Err(self.wrong(name, &format!("must be a list, got {}", short(&other)))),
        }
    }

    /// An object.
    pub fn object(&mut self, name: &str) -> Result<Option<Self>, ApiError> {
        let path = self.at(name);
        self.take(name).map(|value| Self::of(value, path)).transpose()
    }

    /// A field of a feature that does not exist: fine while it asks for nothing.
    pub fn absent(&mut self, name: &str, neutral: impl Fn(&Value) -> bool) -> Result<(), ApiError> {
        match self.take(name) {
            Some(value) if !neutral(&value) => Err(ApiError::unsupported(self.at(name))),
            _ => Ok(()),
        }
    }

    /// Whole paths of the fields nobody took.
    pub fn rest(self) -> Vec<String> {
        let left = self.map.iter().filter(|(_, value)| !value.is_null());
        left.map(|(name, _)| self.at(name)).collect()
    }

    /// What is left, as it is.
    pub fn into_map(self) -> Map<String, Value> {
        self.map
    }
}

/// What a value is, for an error.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A value for an error, unless it is long or may hold somebody's words.
fn short(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        other => kind(other).to_owned(),
    }
}
