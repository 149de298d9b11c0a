//! Where Python's Jinja and minijinja differ and templates may notice: floats, forgiving conversions, string methods.

use minijinja::value::{Kwargs, Tuple, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value};

use super::json::float;

/// Makes an environment behave as Python's.
pub(super) fn install(environment: &mut Environment<'static>) {
    environment.set_formatter(format);
    environment.set_unknown_method_callback(method);
    environment.add_filter("int", int);
    environment.add_filter("float", to_float);
    environment.add_filter("round", round);
    environment.add_filter("wordcount", |text: String| {
        text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()).count()
    });
}

/// Floats with an exponent print as Python prints them.
fn format(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    match as_float(value) {
        Some(number) => out.write_str(&float(number)).map_err(Error::from),
        None => minijinja::escape_formatter(out, state, value),
    }
}

fn as_float(value: &Value) -> Option<f64> {
    (value.kind() == ValueKind::Number && !value.is_integer()).then(|| f64::try_from(value.clone()).ok()).flatten()
}

/// `int(default=0, base=10)`, which takes the default for what is no number.
fn int(
    state: &State,
    value: &Value,
    default: Option<Value>,
    base: Option<u32>,
    options: Kwargs,
) -> Result<Value, Error> {
    let default = match default {
        Some(default) => default,
        None => options.get::<Option<Value>>("default")?.unwrap_or_else(|| Value::from(0)),
    };
    minijinja::filters::int(state, value, Some(default), base, options)
}

/// `float(default=0.0)`, likewise.
fn to_float(value: &Value, default: Option<Value>) -> Value {
    let number = match value.as_str() {
        Some(text) => text.trim().parse::<f64>().ok(),
        None => f64::try_from(value.clone()).ok(),
    };
    number.map_or_else(|| default.unwrap_or_else(|| Value::from(0.0)), Value::from)
}

/// `round(precision=0, method='common')`, always a float; halves go to the even neighbour.
fn round(value: &Value, precision: Option<i32>, method: Option<&str>) -> Result<f64, Error> {
    let number = f64::try_from(value.clone())?;
    let factor = 10_f64.powi(precision.unwrap_or(0));
    let rounded = match method.unwrap_or("common") {
        "common" => (number * factor).round_ties_even() / factor,
        "floor" => (number * factor).floor() / factor,
        "ceil" => (number * factor).ceil() / factor,
        _ => return Err(Error::new(ErrorKind::InvalidOperation, "method must be common, ceil or floor")),
    };
    Ok(if rounded.is_finite() { rounded } else { number })
}

/// String methods that the library lacks or has otherwise; the rest are the library's.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let Some(text) = value.as_str() else {
        return minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args);
    };
    match name {
        "title" => {
            let () = from_args(args)?;
            Ok(title(text).into())
        }
        "rsplit" => {
            let (separator, most): (Option<&str>, Option<i64>) = from_args(args)?;
            let parts =
                most.and_then(|most| usize::try_from(most).ok()).map_or(usize::MAX, |most| most.saturating_add(1));
            let mut list: Vec<&str> = match separator {
                Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
                Some(separator) => text.rsplitn(parts, separator).collect(),
                None if parts == usize::MAX => text.split_whitespace().rev().collect(),
                None => text.trim().rsplitn(parts, char::is_whitespace).map(str::trim).collect(),
            };
            list.reverse();
            Ok(list.into_iter().map(Value::from).collect())
        }
        "removeprefix" | "removesuffix" => {
            let (part,): (&str,) = from_args(args)?;
            let cut = if name == "removeprefix" { text.strip_prefix(part) } else { text.strip_suffix(part) };
            Ok(cut.unwrap_or(text).into())
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let found = if name == "partition" { text.split_once(separator) } else { text.rsplit_once(separator) };
            let parts = match found {
                Some((before, after)) => [before, separator, after],
                None if name == "partition" => [text, "", ""],
                None => ["", "", text],
            };
            Ok(Value::from_object(Tuple::from(parts.map(Value::from))))
        }
        "zfill" => {
            let (width,): (usize,) = from_args(args)?;
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
            let zeros = width.min(4096).saturating_sub(text.chars().count());
            Ok(format!("{sign}{}{digits}", "0".repeat(zeros)).into())
        }
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}

/// Python begins a word at every letter that follows none.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase())
        } else {
            out.extend(c.to_uppercase())
        }
        inside = c.is_alphabetic();
    }
    out
}
