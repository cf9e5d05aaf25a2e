use proptest::prelude::*;

use super::*;

fn facts(labels: &[(&str, &str)]) -> Facts {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Facts { name: "sw-1".into(), labels, ..Facts::default() }
}

fn rendered(source: &str, facts: &Facts) -> Result<String, TemplateError> {
    Template::parse(source.as_bytes())?.render(facts).map(|bytes| String::from_utf8(bytes).unwrap())
}

/// What is told of a template that cannot be rendered, with and without quotes.
fn refused(source: &str, facts: &Facts) -> (String, String, Fault) {
    let error = rendered(source, facts).expect_err(source);
    (error.sentence(Quotes::Yes), error.sentence(Quotes::No), error.fault)
}

#[test]
fn a_device_gets_what_is_declared_of_it() {
    let mut facts = facts(&[("vlan", "20"), ("example.com/site", "berlin")]);
    facts.annotations.insert("uplinks".into(), "1,2".into());
    facts.model = Some("S5700".into());
    let source = "hostname {{ device.name|upper }}\n\
                  vlan {{ device.labels['vlan'] }} {{ device.labels.vlan|int + 100 }}\n\
                  site {{ device.labels['example.com/site'] }} & <{{ device.model }}>\n\
                  {% for port in device.annotations.uplinks|split(',') %}\n\
                  interface ge-{{ '%02d'|format(port|int) }}{{ ' ' ~ loop.index ~ '/' ~ loop.length }}\n\
                  {% endfor %}\n\
                  {% if device.labels.role is defined %}\n\
                  role {{ device.labels.role }}\n\
                  {% else %}\n\
                  no role {{ device.labels.role|default('at all') }}\n\
                  {% endif %}\n\
                  {% for key, value in device.labels|dictsort %}{{ key }}={{ value }};{% endfor %}\n\
                  {# nothing of this #}\
                  {% for n in range(1, 4) %}{{ n }}{% endfor %}\n";
    let expected = "hostname SW-1\nvlan 20 120\nsite berlin & <S5700>\ninterface ge-01 1/2\ninterface ge-02 2/2\n\
                    no role at all\nexample.com/site=berlin;vlan=20;\n123\n";
    assert_eq!(rendered(source, &facts).unwrap(), expected);
}

#[test]
fn a_text_ends_as_it_is_written() {
    for text in ["a", "a\n", "a\n\n", "", "\n", "a\r\nb\r\n"] {
        assert_eq!(rendered(text, &Facts::default()).unwrap(), text);
    }
}

#[test]
fn a_line_of_statements_leaves_nothing_behind_and_every_other_line_ends_where_it_ends() {
    for (source, expected) in [
        ("a\n  {% if true %}\nb\n  {% endif %}\nc\n", "a\nb\nc\n"),
        ("a {% if true %}b{% endif %}\nc\n", "a b\nc\n"),
        ("{{ device.name }}{% if true %}{% endif %}\nc\n", "sw-1\nc\n"),
        ("{% if true %}{% if true %}\nb\n{% endif %}{% endif %}\nc\n", "b\nc\n"),
        ("{% for a in range(2) %}{{ a }}{% endfor %}\nc\n", "01\nc\n"),
        ("{% if true %} a{% endif %}\nb", " a\nb"),
        ("a {% if true -%}\n  b{% endif %}\n", "a b\n"),
        ("a\n{# about b #}\nb\n", "a\nb\n"),
        ("a {# c #}\nb\n{# d #}{# e #}\nc\n", "a \nb\nc\n"),
        ("{% raw %}\n{{ a }}\n{% endraw %}\nb\n", "{{ a }}\nb\n"),
        ("{{ '%}\n' }}{% if true %}{% endif %}\nb\n", "%}\n\nb\n"),
        ("é {% if true %}ü{% endif %}\n{% raw %}{% if %}{% endraw %}\n", "é ü\n{% if %}\n"),
    ] {
        assert_eq!(rendered(source, &facts(&[])).unwrap(), expected, "{source:?}");
    }
}

#[test]
fn what_is_missing_is_named_with_its_line() {
    let (quoting, plain, fault) = refused("a\n\nvlan {{ device.labels['vlan'] }}\n", &facts(&[("site", "b")]));
    assert!(quoting.starts_with("line 3: ") && quoting.contains("vlan"), "{quoting}");
    assert!(plain.starts_with("line 3: ") && !plain.contains("vlan"), "{plain}");
    assert_eq!(fault, Fault::Undefined);
    for source in [
        "{{ device.labels.vlan|upper }}",
        "{{ 'a' ~ device.labels.vlan }}",
        "{{ device.labels.vlan|int + 1 }}",
        "{% if device.labels.vlan %}{% endif %}",
        "{% for vlan in device.labels.vlan %}{% endfor %}",
        "{% set vlan = device.labels.vlan %}{{ vlan }}",
    ] {
        let (quoting, ..) = refused(source, &facts(&[]));
        assert!(quoting.contains("device.labels.vlan"), "{source}: {quoting}");
    }
    assert!(refused("{{ device.model }}", &facts(&[])).0.contains("device.model"));
}

#[test]
fn what_no_device_could_have_is_found_without_one() {
    for (source, line, named) in [
        ("a\n{{ device.name", 2, ""),
        ("{% if true %}", 1, ""),
        ("{% nonsense %}", 1, "nonsense"),
        ("\n\n{{ devcie.name }}", 3, "devcie"),
        ("{{ device.nmae }}", 1, "device.nmae"),
        ("{{ device['nmae'] }}", 1, "device.nmae"),
        ("\n{{ device.name|uper }}", 2, "uper"),
        ("{{ 1 if device.name is upside }}", 1, "upside"),
        ("{{ now() }}", 1, "now"),
        ("{{ device.name.upper() }}", 1, "upper"),
        ("{% include 'a' %}", 1, "include"),
        ("{% macro a() %}{% endmacro %}", 1, "macro"),
        ("{% set a %}x{% endset %}", 1, "set"),
        ("{% filter upper %}x{% endfilter %}", 1, "filter"),
        ("{% set a = device.name ~ device.name %}", 1, "~"),
        ("{% set a = device.name + device.name %}", 1, "+"),
        ("{% set a = device.name * 9 %}", 1, "*"),
        ("{{ [[1]] }}", 1, "constants"),
        ("{% set a = [device.labels] %}", 1, "constants"),
        ("{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}", 1, "recursive"),
        ("{% set device = 1 %}", 1, "another value"),
        ("{% set device.name = 1 %}", 1, "another value"),
    ] {
        let error = Template::parse(source.as_bytes()).expect_err(source);
        assert_eq!(error.line, Some(line), "{source}: {error:?}");
        let (quoting, plain) = (error.sentence(Quotes::Yes), error.sentence(Quotes::No));
        assert!(quoting.contains(named), "{source}: {quoting}");
        assert!(named.is_empty() || named.len() < 3 || !plain.contains(named), "{source}: {plain}");
    }
    assert_eq!(Template::parse(b"\xff").unwrap_err().fault, Fault::NotText);
    assert_eq!(Template::parse(&vec![b'a'; TEMPLATE_MAX + 1]).unwrap_err().fault, Fault::SourceTooLarge);
}

#[test]
fn no_template_runs_for_ever_or_makes_gigabytes() {
    let mut facts = facts(&[("a", "x")]);
    facts.annotations.insert("long".into(), "x,".repeat(words::VALUE_MAX / 2));
    let nested = |open: &str, close: &str, times: usize| format!("{}x{}", open.repeat(times), close.repeat(times));
    let loops = "{% for a in range(4000) %}";
    for (source, fault) in [
        (nested(loops, "{% endfor %}", 3), Fault::TooLong),
        (format!("{loops}{{{{ device.annotations.long }}}}{{% endfor %}}"), Fault::ResultTooLarge),
        ("{% for a in range(20000) %}{% endfor %}".into(), Fault::ValueTooLarge),
        ("{% set a = device.annotations.long|replace('x', 'xxxxxxxx') %}".into(), Fault::ValueTooLarge),
        ("{{ device.annotations.long|replace('x', device.annotations.long) }}".into(), Fault::ValueTooLarge),
        ("{{ device.annotations.long|join(device.annotations.long) }}".into(), Fault::ValueTooLarge),
        ("{{ device.annotations.long|split(',') }}".into(), Fault::ValueTooLarge),
        ("{{ '%999999999d'|format(1) }}".into(), Fault::ValueTooLarge),
        ("{{ '%*d'|format(999999999, 1) }}".into(), Fault::ValueTooLarge),
        (format!("{loops}{{{{ (device.annotations.long|upper)|length }}}}{{% endfor %}}"), Fault::ValueTooLarge),
        (format!("{{{{ {} }}}}", "1+".repeat(100_000) + "1"), Fault::NotSupported),
        (format!("{{{{ {} }}}}", vec!["device.annotations.long"; 200].join("~")), Fault::NotSupported),
        (format!("{{{{ {}1{} }}}}", "(".repeat(50_000), ")".repeat(50_000)), Fault::NotSupported),
        (format!("{{{{ device.name{} }}}}", "|upper".repeat(20_000)), Fault::NotSupported),
        (nested("{% if true %}", "{% endif %}", 5_000), Fault::NotSupported),
        (format!("{{% if true %}}{}{{% endif %}}", "{% elif true %}".repeat(5_000)), Fault::NotSupported),
    ] {
        let shown = &source[..source.len().min(80)];
        let error = rendered(&source, &facts).expect_err(shown);
        assert_eq!(error.fault, fault, "{shown}: {error:?}");
    }
    // A template may be long, and have many branches one after another.
    let many = "{% if device.labels.a == 'x' %}y{% elif false %}{% endif %}\n".repeat(2_000);
    assert_eq!(rendered(&many, &facts).unwrap(), "y\n".repeat(2_000));
    assert_eq!(rendered(&nested("{% if true %}", "{% endif %}", 40), &facts).unwrap(), "x");
}

#[test]
fn annotations_of_tools_are_nothing_that_a_template_knows() {
    let device = serde_json::from_value::<crate::Device>(serde_json::json!({
        "apiVersion": "fettle.dev/v1alpha1", "kind": "Device",
        "metadata": {"name": "sw-1", "labels": {"a": "b"}, "annotations": {
            "kubectl.kubernetes.io/last-applied-configuration": "{}", "fettle.dev/retry-at": "now", "vlan": "7",
            "huge": "x".repeat(words::VALUE_MAX + 1)}},
        "spec": {"mac": "02:00:00:00:00:01"},
        "status": {"reported": {"version": "1", "model": "S5700", "at": "2026-11-20T12:00:00Z"}},
    }));
    let facts = Facts::of(&device.unwrap());
    assert_eq!(facts.annotations, BTreeMap::from([("vlan".to_owned(), "7".to_owned())]));
    assert_eq!((facts.name.as_str(), facts.model), ("sw-1", None), "what it reports is not declared");
}

const CANARY: &str = "hunter2";

#[test]
fn nothing_of_a_template_is_told_unless_it_may_be() {
    for source in [
        "{{ hunter2 }}",
        "{{ device.hunter2 }}",
        "{{ device.labels.hunter2 }}",
        "{{ 'hunter2'|nothing }}",
        "{{ 'hunter2' - 1 }}",
        "{{ hunter2",
        "{% hunter2 %}",
        "{{ device.name|hunter2 }}",
        "{{ 1 is hunter2 }}",
        "{{ hunter2() }}",
        "{{ 'hunter2'|int }}",
        "{{ 'hunter2' ~ device.labels['hunter2'] }}",
        "{{ 'hunter2'|round }}",
        "{{ 'hunter2'.hunter2 }}",
        "{{ 'hunter2\\x' }}",
        "{{ device.labels.canary|int }}",
        "{{ -device.labels.canary }}",
        "{{ device.labels.canary / 2 }}",
    ] {
        let error = rendered(source, &facts(&[("canary", CANARY)])).expect_err(source);
        assert!(!error.to_string().contains(CANARY), "{source}: {error}");
        assert!(!format!("{error:?}").contains(CANARY), "{source}: {error:?}");
        assert!(!error.sentence(Quotes::No).contains(CANARY), "{source}");
    }
    let template = Template::parse(b"{# hunter2 #}").unwrap();
    assert!(!format!("{template:?}").contains(CANARY));
}

/// Pieces of templates, good and bad, to be strung together.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~\\n]{0,20}",
        Just("{{ device.name }}".to_owned()),
        Just("{{ device.labels.a }}".to_owned()),
        Just("{% for a in range(300) %}".to_owned()),
        Just("{% endfor %}".to_owned()),
        Just("{% if device.labels.a == 'b' %}".to_owned()),
        Just("{% else %}".to_owned()),
        Just("{% endif %}".to_owned()),
        Just("{% set a = device.labels.b|replace('b', 'bbbb') %}".to_owned()),
        Just("{{ a|split('b')|join(device.name) ~ a }}".to_owned()),
        Just("{{".to_owned()),
        Just("}}".to_owned()),
        Just("{%".to_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever is written, it ends, within its bounds, and a second time the same.
    #[test]
    fn a_template_is_refused_or_renders_the_same_within_bounds(
        pieces in proptest::collection::vec(piece(), 0..24),
        labels in proptest::collection::btree_map("[ab]", "[a-b]{0,8}", 0..3),
    ) {
        let source = pieces.concat();
        let facts = Facts { name: "sw".into(), labels, ..Facts::default() };
        let once = Template::parse(source.as_bytes()).and_then(|template| {
            let first = template.render(&facts);
            prop_assert_eq_result(&first, &template.render(&facts));
            first
        });
        let again = rendered(&source, &facts).map(String::into_bytes);
        prop_assert_eq!(&once, &again);
        if let Ok(bytes) = once {
            prop_assert!(bytes.len() <= RENDERED_MAX);
        }
    }
}

fn prop_assert_eq_result(one: &Result<Vec<u8>, TemplateError>, other: &Result<Vec<u8>, TemplateError>) {
    assert!(one == other);
}

const PAGE: &str = include_str!("../../../docs/configuration.md");

#[test]
fn the_example_of_the_page_renders_and_the_page_names_every_filter_and_test_that_there_is() {
    let (_, rest) = PAGE.split_once("  template: |\n").unwrap();
    let (template, _) = rest.split_once("```").unwrap();
    let template: String = template.lines().map(|line| format!("{}\n", line.strip_prefix("    ").unwrap())).collect();
    let mut facts = facts(&[("site", "berlin")]);
    facts.annotations.insert("example.com/vlans".into(), "7,8".into());
    let text = rendered(&template, &facts).unwrap();
    let begins = "hostname sw-1\nntp server 192.0.2.1\nvlan 7\nvlan 8\ninterface ge-0/01\n  description sw-1/1\n";
    assert!(text.starts_with(begins) && text.lines().count() == 4 + 2 * 24, "{text}");

    for (begins, names) in [("- filters: ", words::all_filters()), ("- tests: ", words::all_tests())] {
        let (_, rest) = PAGE.split_once(begins).unwrap();
        let (list, _) = rest.split_once(['.', ';']).unwrap();
        let mut documented: Vec<&str> = list.split('`').skip(1).step_by(2).collect();
        let mut known: Vec<&str> = names.into_iter().map(|(name, _)| name).collect();
        documented.sort_unstable();
        known.sort_unstable();
        assert_eq!(documented, known);
    }
}
