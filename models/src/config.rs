//! Configuration fields that families share, read tolerantly: a default where the reference has one, an error that names
//! the field where it has none.

use serde_json::{Map, Value};

use crate::ModelError;

/// A `config.json` with typed access. Errors name the field.
#[derive(Clone, Debug)]
pub struct Config(Map<String, Value>);

impl Config {
    /// Parses the text of a `config.json`.
    ///
    /// # Errors
    /// The text is no JSON object.
    pub fn parse(text: &str) -> Result<Self, ModelError> {
        match serde_json::from_str(text) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(ModelError::one("config.json: expected an object")),
            Err(e) => Err(ModelError::one(format!("config.json: {e}"))),
        }
    }

    /// The same configuration with one field replaced.
    pub fn with(mut self, field: &str, value: Value) -> Self {
        self.0.insert(field.to_owned(), value);
        self
    }

    /// The same configuration with fields where it has none, not even `null`: as the reference fills them in.
    pub fn with_defaults(self, defaults: &[(&str, Value)]) -> Self {
        defaults.iter().fold(self, |c, (field, value)| match c.0.contains_key(*field) {
            true => c,
            false => c.with(field, value.clone()),
        })
    }

    /// The raw value; `null` counts as absent, as the reference treats it.
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(field).filter(|v| !v.is_null())
    }

    fn wrong(field: &str, expected: &str, got: &Value) -> ModelError {
        ModelError::one(format!("config.json: `{field}`: expected {expected}, got {got}"))
    }

    /// A non-negative integer below 2³¹, so that sizes cannot overflow when multiplied in 64 bits.
    ///
    /// # Errors
    /// Present but something else.
    pub fn size(&self, field: &str) -> Result<Option<usize>, ModelError> {
        match self.get(field) {
            None => Ok(None),
            Some(v) => match v.as_u64() {
                Some(n) if n < 1 << 31 => Ok(Some(n as usize)),
                _ => Err(Self::wrong(field, "an integer from 0 to 2147483647", v)),
            },
        }
    }

    /// A positive size that must be there.
    ///
    /// # Errors
    /// Absent, zero or no integer.
    pub fn need(&self, field: &str) -> Result<usize, ModelError> {
        match self.size(field)? {
            Some(0) => Err(ModelError::one(format!("config.json: `{field}` must not be 0"))),
            Some(n) => Ok(n),
            None => Err(ModelError::one(format!("config.json: `{field}` is missing"))),
        }
    }

    /// A positive size that must be there, at most `limit`: counts that are looped over.
    ///
    /// # Errors
    /// Absent, out of range or no integer.
    pub fn count(&self, field: &str, limit: usize) -> Result<usize, ModelError> {
        let n = self.need(field)?;
        if n > limit {
            return Err(ModelError::one(format!("config.json: `{field}`: expected at most {limit}, got {n}")));
        }
        Ok(n)
    }

    /// A finite number, or the default.
    ///
    /// # Errors
    /// Present but something else.
    pub fn number(&self, field: &str, default: f64) -> Result<f64, ModelError> {
        match self.get(field) {
            None => Ok(default),
            Some(v) => v.as_f64().filter(|x| x.is_finite()).ok_or_else(|| Self::wrong(field, "a number", v)),
        }
    }

    /// A truth value, or the default.
    ///
    /// # Errors
    /// Present but something else.
    pub fn flag(&self, field: &str, default: bool) -> Result<bool, ModelError> {
        match self.get(field) {
            None => Ok(default),
            Some(v) => v.as_bool().ok_or_else(|| Self::wrong(field, "true or false", v)),
        }
    }

    /// A string, if there.
    ///
    /// # Errors
    /// Present but something else.
    pub fn text(&self, field: &str) -> Result<Option<&str>, ModelError> {
        match self.get(field) {
            None => Ok(None),
            Some(v) => v.as_str().map(Some).ok_or_else(|| Self::wrong(field, "a string", v)),
        }
    }

    /// A nested object, if there.
    ///
    /// # Errors
    /// Present but something else.
    pub fn object(&self, field: &str) -> Result<Option<Self>, ModelError> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(Self(fields.clone()))),
            Some(v) => Err(Self::wrong(field, "an object", v)),
        }
    }

    /// A positive number, if there, neither so large nor so small that its inverse is no f32.
    ///
    /// # Errors
    /// Present but something else.
    pub fn positive(&self, field: &str) -> Result<Option<f64>, ModelError> {
        let Some(v) = self.get(field) else { return Ok(None) };
        let fits = |x: &f64| *x > 0.0 && (*x as f32).is_normal() && ((1.0 / x) as f32).is_normal();
        v.as_f64().filter(fits).map(Some).ok_or_else(|| Self::wrong(field, "a positive number of usual size", v))
    }

    /// Refuses a setting whose effect is not implemented.
    ///
    /// # Errors
    /// The field has a value other than `allowed`.
    pub fn only(&self, field: &str, allowed: &[&str]) -> Result<(), ModelError> {
        match self.text(field)? {
            Some(v) if !allowed.contains(&v) => Err(ModelError::one(format!(
                "config.json: `{field}` = \"{v}\" is not supported: expected {}",
                allowed.join(" or ")
            ))),
            _ => Ok(()),
        }
    }
}
