//! Templates against what the dialect says, one behaviour at a time.

use super::*;

fn template(source: &str) -> Result<ChatTemplate, TemplateError> {
    let special = Map::from_iter([("bos_token".to_owned(), Value::from("<s>"))]);
    ChatTemplate::new("chat_template.jinja", IndexMap::from_iter([("default".into(), source.into())]), special)
}

fn render(source: &str) -> Result<String, TemplateError> {
    let messages = json!([{"role": "user", "content": " Hi "}, {"role": "assistant", "content": "Yes"}]);
    let variables = Map::new();
    let conversation =
        Conversation { messages: &messages, tools: None, add_generation_prompt: true, variables: &variables };
    template(source)?.render_at(&conversation, &"2026-01-02T03:04:05[UTC]".parse().expect("a valid time"))
}

#[test]
fn dialect() {
    for (source, expected) in [
        ("{{ bos_token }}{% for m in messages %}\n  {{ m['content'].strip() }}\n{% endfor %}\n", "<s>  Hi\n  Yes\n"),
        ("{{ messages[0] | tojson }}", r#"{"role": "user", "content": " Hi "}"#),
        ("{{ {'a': [1, 'é<']} | tojson(indent=1) }}", "{\n \"a\": [\n  1,\n  \"é<\"\n ]\n}"),
        ("{{ strftime_now('%d %b %Y') }}", "02 Jan 2026"),
        ("{% for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}{{ m.role }}{% endfor %}", "user"),
        ("{% generation %}{{ messages[1].content }}{% endgeneration %}!", "Yes!"),
        ("{{ none }} {{ true }} {{ [1, 'a'] }} {{ missing }}", "None True [1, 'a'] "),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "2"),
        ("{{ messages[::-1][0]['content'].split('e')[0] ~ 'x'.upper() }}", "YX"),
        ("{{ 'a' if messages[0].get('tool_calls') is none else 'b' }}", "a"),
        ("{% if tools is defined and tools is not none %}t{% else %}-{% endif %}", "-"),
    ] {
        assert_eq!(render(source).unwrap_or_else(|error| panic!("{source}: {error}")), expected, "{source}");
    }
}

#[test]
fn errors_name_the_line() {
    let error = template("a\nb {% if %}").expect_err("bad syntax");
    assert_eq!((error.line, error.raised), (2, false), "{error}");
    let error = render("\n\n{{ messages.nothing.more }}").expect_err("an undefined attribute");
    assert_eq!((error.line, error.raised), (3, false), "{error}");
    let error = render("\n{{ raise_exception('no system role') }}").expect_err("raised");
    assert_eq!((error.line, error.raised, error.message.as_str()), (2, true, "no system role"));
    assert!(template("{{ raise_exception('system first') }}").expect("compiles").probe().is_ok());
    assert!(template("{{ nothing.more }}").expect("compiles").probe().is_err());
}

#[test]
fn bounds() {
    let error = render("{% for i in range(9999) %}{% for j in range(9999) %}{{ j }}{% endfor %}{% endfor %}");
    assert!(error.expect_err("out of fuel").message.contains("steps"));
    let error = render(
        "{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    );
    assert!(error.is_err());
}
