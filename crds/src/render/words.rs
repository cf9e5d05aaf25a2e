//! The filters, tests and functions of templates: Jinja's own, as far as they cannot be made to produce, or to do, without
//! bound. What goes in is charged, and what comes out is measured and whole.

use minijinja::value::{Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters, functions, tests};

/// The most that a text in a template may have, in bytes: an annotation with all the VLANs of a device, and far more.
pub(super) const VALUE_MAX: usize = 16 * 1024;
/// The most that a list may have: all the VLANs there are, and as many pairs of labels as a device can have.
const ITEMS_MAX: usize = 4096;
/// What all filters of one rendering may take in, in bytes, where an item counts as sixteen: a few hundred times over all
/// annotations that a device may have.
const WORK_MAX: usize = 64 * 1024 * 1024;
/// `%999d` is as wide as a format may make a value.
const WIDTH_DIGITS: usize = 3;

/// A value has grown too large, or too many of them have gone through filters.
#[derive(Debug, thiserror::Error)]
#[error("too large")]
pub(super) struct ValueTooLarge;

/// What the filters of one rendering have taken in so far.
#[derive(Default)]
struct Work(usize);

/// The filters, by name.
pub(super) fn all_filters() -> Vec<(&'static str, Value)> {
    vec![
        ("upper", Value::from_function(filters::upper)),
        ("lower", Value::from_function(filters::lower)),
        ("title", Value::from_function(filters::title)),
        ("capitalize", Value::from_function(filters::capitalize)),
        ("trim", Value::from_function(filters::trim)),
        ("replace", Value::from_function(filters::replace)),
        ("split", Value::from_function(filters::split)),
        ("join", Value::from_function(filters::join)),
        ("format", Value::from_function(filters::format)),
        ("default", Value::from_function(filters::default)),
        ("d", Value::from_function(filters::default)),
        ("int", Value::from_function(filters::int)),
        ("float", Value::from_function(filters::float)),
        ("abs", Value::from_function(filters::abs)),
        ("round", Value::from_function(filters::round)),
        ("string", Value::from_function(filters::string)),
        ("bool", Value::from_function(filters::bool)),
        ("length", Value::from_function(filters::length)),
        ("count", Value::from_function(filters::length)),
        ("first", Value::from_function(filters::first)),
        ("last", Value::from_function(filters::last)),
        ("min", Value::from_function(filters::min)),
        ("max", Value::from_function(filters::max)),
        ("sort", Value::from_function(filters::sort)),
        ("unique", Value::from_function(filters::unique)),
        ("reverse", Value::from_function(filters::reverse)),
        ("list", Value::from_function(filters::list)),
        ("items", Value::from_function(filters::items)),
        ("dictsort", Value::from_function(filters::dictsort)),
    ]
}

/// The tests, by name.
pub(super) fn all_tests() -> Vec<(&'static str, Value)> {
    vec![
        ("defined", Value::from_function(tests::is_defined)),
        ("undefined", Value::from_function(tests::is_undefined)),
        ("none", Value::from_function(tests::is_none)),
        ("number", Value::from_function(tests::is_number)),
        ("string", Value::from_function(tests::is_string)),
        ("odd", Value::from_function(tests::is_odd)),
        ("even", Value::from_function(tests::is_even)),
        ("divisibleby", Value::from_function(tests::is_divisibleby)),
        ("startingwith", Value::from_function(tests::is_startingwith)),
        ("endingwith", Value::from_function(tests::is_endingwith)),
        ("in", Value::from_function(tests::is_in)),
    ]
}

/// Whether there is a filter of that name.
pub(super) fn is_filter(name: &str) -> bool {
    all_filters().iter().any(|(known, _)| *known == name)
}

/// Whether there is a test of that name.
pub(super) fn is_test(name: &str) -> bool {
    all_tests().iter().any(|(known, _)| *known == name)
}

/// Gives an environment all of them.
pub(super) fn teach(environment: &mut Environment<'_>) {
    for (name, filter) in all_filters() {
        let measured = move |state: &mut State<'_, '_>, values: Rest<Value>| -> Result<Value, Error> {
            charge(state, &values)?;
            check_growth(name, &values)?;
            whole(filter.call(state, &values)?)
        };
        environment.add_filter(name, measured);
    }
    for (name, test) in all_tests() {
        environment.add_test(name, move |state: &mut State<'_, '_>, values: Rest<Value>| -> Result<bool, Error> {
            charge(state, &values)?;
            Ok(test.call(state, &values)?.is_true())
        });
    }
    let range = |state: &mut State<'_, '_>, from: isize, to: Option<isize>, step: Option<isize>| {
        let range = whole(functions::range(from, to, step)?)?;
        charge(state, std::slice::from_ref(&range))?;
        Ok::<_, Error>(range)
    };
    environment.add_function("range", range);
}

fn too_large() -> Error {
    Error::new(ErrorKind::InvalidOperation, "a value grows too large").with_source(ValueTooLarge)
}

fn size(value: &Value) -> usize {
    match value.as_str() {
        Some(text) => text.len(),
        None => 16 + 16 * value.len().unwrap_or(0),
    }
}

fn charge(state: &mut State<'_, '_>, values: &[Value]) -> Result<(), Error> {
    let work = state.get_or_insert_extension(Work::default());
    work.0 += values.iter().map(size).sum::<usize>();
    if work.0 > WORK_MAX { Err(too_large()) } else { Ok(()) }
}

/// Three filters can make much of little: what they make is reckoned before they do.
fn check_growth(name: &str, values: &[Value]) -> Result<(), Error> {
    let text = |index: usize| values.get(index).and_then(Value::as_str);
    let most = match name {
        "replace" => {
            let (from, to) = (text(1).unwrap_or_default(), text(2).unwrap_or_default());
            let whole = text(0).unwrap_or_default();
            whole.len() + (whole.len() / from.len().max(1) + 1) * to.len()
        }
        "join" => {
            let items = values.first().and_then(Value::len).unwrap_or(0);
            let joined = values.first().and_then(|list| list.try_iter().ok());
            let joined: usize = joined.into_iter().flatten().map(|item| size(&item)).sum();
            joined + items * text(1).map_or(0, str::len)
        }
        "format" => {
            let pattern = text(0).unwrap_or_default();
            let widest = pattern.split(|c: char| !c.is_ascii_digit()).map(str::len).max().unwrap_or(0);
            // A `*` takes the width from a value.
            if widest > WIDTH_DIGITS || pattern.contains('*') { usize::MAX } else { 0 }
        }
        _ => 0,
    };
    // A few times over: what comes out is measured as it is.
    if most > 64 * VALUE_MAX { Err(too_large()) } else { Ok(()) }
}

/// The value, if it is small enough; lists as such: one that is made as it is read could hold others without end.
fn whole(value: Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::String if size(&value) > VALUE_MAX => Err(too_large()),
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter()?.take(ITEMS_MAX + 1).collect();
            if items.len() > ITEMS_MAX { Err(too_large()) } else { Ok(Value::from(items)) }
        }
        _ => Ok(value),
    }
}
